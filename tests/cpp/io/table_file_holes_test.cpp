// Files of tables with holes and of kept tokens: they come back as they were, and those that no
// table could have left are refused, checksums right or not.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>
#include <random>

#include "io/file_support.h"
#include "kv/table/token_rows.h"
#include "quire/io/kv_rows.h"
#include "quire/io/table_file.h"

namespace quire::testing {
namespace {

// A table, and which token is at each of its indices.
struct Sequence {
  std::shared_ptr<BlockTable> table;
  std::vector<std::uint32_t> tokens;

  void append(std::size_t count) {
    std::vector<std::uint32_t> more(count);
    std::iota(more.begin(), more.end(), next);
    next += static_cast<std::uint32_t>(count);
    append_tokens(*table, more);
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  // Keeps the tokens at these indices.
  void keep(const std::vector<std::size_t>& indices) {
    const std::vector<std::int64_t> old = table->positions();
    const std::vector<std::uint32_t> all = std::exchange(tokens, {});
    std::vector<std::int64_t> positions;
    for (const std::size_t i : indices) {
      positions.push_back(old[i]);
      tokens.push_back(all[i]);
    }
    table->keep(positions);
  }
  bool is_hole(std::size_t token) const {
    return table->blocks()[token / table->pool()->geometry().block_size] == kHole;
  }

  std::uint32_t next = 1;
};

std::vector<bool> holes(const BlockTable& table) {
  std::vector<bool> holes;
  for (const std::int32_t block : table.blocks()) holes.push_back(block == kHole);
  return holes;
}

void expect_same(const Sequence& sequence, const BlockTable& loaded) {
  EXPECT_EQ(loaded.num_tokens(), sequence.table->num_tokens());
  EXPECT_EQ(holes(loaded), holes(*sequence.table));
  EXPECT_EQ(loaded.positions(), sequence.table->positions());
  EXPECT_EQ(loaded.next_position(), sequence.table->next_position());
  const std::int64_t block_size = loaded.pool()->geometry().block_size;
  const std::vector<std::int32_t> blocks = loaded.blocks();
  ASSERT_EQ(blocks.size(), sequence.table->blocks().size());
  for (std::size_t i = 0; i < sequence.tokens.size(); ++i) {
    const std::int64_t block = blocks[i / block_size];
    if (block == kHole) continue;
    EXPECT_TRUE(slot_holds(loaded.pool()->storage(), block * block_size + i % block_size,
                           sequence.tokens[i]))
        << "token " << i;
  }
}

// 23 tokens in columns 0, 2, 5 alone, at positions 0, 1, 3, 4, ...
Sequence with_holes_and_positions(const std::shared_ptr<BlockPool>& pool) {
  Sequence sequence{std::make_shared<BlockTable>(pool), {}};
  sequence.append(14);
  sequence.keep({0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 12});
  sequence.append(12);
  sequence.table->drop_before(10, 4);
  sequence.table->drop_before(23, 14);
  return sequence;
}

TEST(TableFileHoles, RandomTablesComeBackAndGoOn) {
  const TemporaryDirectory directory;
  std::mt19937 random(1);
  const auto below = [&](std::size_t n) { return random() % n; };
  std::size_t num_holes = 0, num_moved = 0, num_next_alone = 0;
  for (int walk = 0; walk < 30; ++walk) {
    const auto block_size = static_cast<std::int64_t>(1 + below(5));
    const auto pool = new_pool(200, block_size);
    Sequence sequence{std::make_shared<BlockTable>(pool), {}};
    for (int step = 0; step < 8; ++step) {
      const std::int64_t next = sequence.table->next_position();
      if (below(3) == 0) {
        // Some of them, or only the first few.
        const std::size_t share = below(4), end = below(3) == 0 ? below(3) : sequence.tokens.size();
        std::vector<std::size_t> kept;
        for (std::size_t i = 0; i < std::min(end, sequence.tokens.size()); ++i) {
          if (!sequence.is_hole(i) && below(4) >= share) kept.push_back(i);
        }
        sequence.keep(kept);
      } else if (below(2) == 0 && next > 0) {
        sequence.table->drop_before(static_cast<std::int64_t>(below(next + 1)),
                                    static_cast<std::int64_t>(below(9)));
      } else {
        sequence.append(below(12));
      }
      save_table(*sequence.table, directory / "t");
      const std::vector<bool> columns = holes(*sequence.table);
      num_holes += std::count(columns.begin(), columns.end(), true);
      const auto positions = sequence.table->positions();
      const bool moved = !positions.empty() && positions.back() >= std::ssize(positions);
      num_moved += moved;
      num_next_alone += !moved && sequence.table->next_position() > std::ssize(positions);

      const auto needed = std::count(columns.begin(), columns.end(), false);
      const auto other = new_pool(needed + 9, block_size);
      Sequence loaded{load_table(other, directory / "t"), sequence.tokens, sequence.next};
      expect_same(sequence, *loaded.table);
      EXPECT_EQ(other->num_used(), needed);
      other->check();
      // It saves as what it is, and goes on as the other would.
      save_table(*loaded.table, directory / "again");
      EXPECT_EQ(contents(directory / "t"), contents(directory / "again"));
      const std::unique_ptr<BlockTable> fork = sequence.table->fork();
      loaded.append(6);
      append_tokens(*fork, {loaded.tokens.end() - 6, loaded.tokens.end()});
      EXPECT_EQ(loaded.table->positions(), fork->positions());
      EXPECT_EQ(holes(*loaded.table), holes(*fork));
      loaded.table->truncate(0);
      EXPECT_EQ(other->num_used(), 0);
      other->check();
    }
  }
  EXPECT_GT(num_holes, 50u);
  EXPECT_GT(num_moved, 50u);
  EXPECT_GT(num_next_alone, 5u);
}

TEST(TableFileHoles, EveryDamageIsRefusedAndThePoolAsItWas) {
  const TemporaryDirectory directory;
  const auto pool = new_pool(8, 4);
  const Sequence sequence = with_holes_and_positions(pool);
  EXPECT_EQ(holes(*sequence.table), (std::vector<bool>{false, true, false, true, true, false}));
  save_table(*sequence.table, directory / "t");
  const auto fresh = new_pool(8, 4);
  expect_every_damage_refused(contents(directory / "t"), [&](const FileBytes& file) {
    const std::int64_t peak = fresh->stats().peak_used;
    try {
      expect_same(sequence, *load_table(fresh, file));
    } catch (...) {
      EXPECT_EQ(fresh->stats().peak_used, peak);
      EXPECT_EQ(fresh->num_free(), 8);
      throw;
    }
  });
  EXPECT_EQ(fresh->stats().peak_used, 3);
  fresh->check();
}

TEST(TableFileHoles, OnlyWhatIsThereTakesRoom) {
  const TemporaryDirectory directory;
  save_table(*with_holes_and_positions(new_pool(8, 4)).table, directory / "t");
  EXPECT_EQ(load_table(new_pool(3, 4), directory / "t")->num_tokens(), 23);
  EXPECT_EQ(message_of<OutOfBlocks>([&] { load_table(new_pool(2, 4), directory / "t"); }),
            concat("load_table: path: got ", directory / "t", ": 23 tokens, which take 3 blocks, ",
                   "expected at most the 2 free"));
}

// Checksums that are right, and contents that are not. 10 tokens in blocks of 4.
struct Forgery {
  std::string num_tokens = "10";
  std::string blocks = "0:1,2:3";
  std::optional<std::string> next_position = "20";
  std::int64_t rows = 6;
  std::vector<std::int64_t> positions = {0, 1, 2, 3, 4, 5, 6, 7, 8, 19};
  std::string_view dtype = "I64";
  std::vector<std::int64_t> shape;  // of positions; empty: as many as there are

  void save(const std::string& path, const BlockPool& pool) const {
    AtomicFile file("forge", path);
    Metadata metadata = kv_metadata("block_table", pool.geometry());
    metadata.emplace_back("quire.num_tokens", num_tokens);
    metadata.emplace_back("quire.blocks", blocks);
    if (next_position) metadata.emplace_back("quire.next_position", *next_position);
    std::vector<TensorSpec> tensors = row_tensors(pool, RowsOf::tiles, rows, 2);
    const std::size_t num_row_tensors = tensors.size();
    const auto count = static_cast<std::int64_t>(positions.size());
    tensors.push_back({"positions", dtype, shape.empty() ? std::vector{count} : shape});
    SafetensorsWriter writer(file, std::move(metadata), tensors);
    for (std::size_t i = 0; i < num_row_tensors; ++i) {
      writer.write(
          i, std::vector<float>(tensors[i].shape[0] * tensors[i].shape[1] * tensors[i].shape[2]));
    }
    writer.write(num_row_tensors, positions);
    writer.finish();
    file.commit();
  }
};

std::string load_forged(const std::function<void(Forgery&)>& forge) {
  const TemporaryDirectory directory;
  const auto pool = new_pool(8, 4);
  Forgery forgery;
  forge(forgery);
  forgery.save(directory / "t", *pool);
  const std::string message =
      message_of<ValueError>([&] { load_table(pool, as_file(contents(directory / "t"))); });
  EXPECT_EQ(pool->num_used(), 0);
  EXPECT_EQ(pool->stats().peak_used, message == "nothing thrown" ? 2 : 0) << message;
  pool->check();
  return reason_of(message);
}

TEST(TableFileForged, ARightOneIsLoaded) {
  EXPECT_EQ(load_forged([](Forgery&) {}), "nothing thrown");
  EXPECT_EQ(load_forged([](Forgery& f) { f.next_position.reset(); }), "nothing thrown");
  EXPECT_EQ(load_forged([](Forgery& f) { f.positions.back() = 9; }), "nothing thrown");
}

TEST(TableFileForged, RangesThatNoTableHasAreRefused) {
  const auto unlike = [](const std::string& text) {
    return concat("quire.blocks \"", text, "\", expected ranges such as \"0:1,3:7\"");
  };
  for (const char* text : {"0", "0:", ":3", "0:3,", ",0:3", "0:1;2:3", "0:1 2:3", " 0:3", "00:3",
                           "+0:3", "0:3x", "0:1,,2:3", "0:99999999999999999999", "-0:3", "::"}) {
    EXPECT_EQ(load_forged([&](Forgery& f) { f.blocks = text; }), unlike(text));
  }
  const auto within = [](const char* range, int index, int least) {
    return concat("block range ", range, " at index ", index, ", expected one within ", least, ":3",
                  index > 0 ? ", as ranges grow and stand apart" : ", and not an empty one");
  };
  const std::pair<const char*, std::string> cases[] = {
      {"0:2,1:3", within("1:3", 1, 3)},
      {"0:1,1:3", within("1:3", 1, 2)},
      {"2:3,0:1", within("0:1", 1, 4)},
      {"0:1,0:1,2:3", within("0:1", 1, 2)},
      {"0:4", within("0:4", 0, 0)},
      {"0:1,2:9223372036854775807", within("2:9223372036854775807", 1, 2)},
      {"-1:3", within("-1:3", 0, 0)},
      {"0:0,2:3", within("0:0", 0, 0)},
      {"1:0,2:3", within("1:0", 0, 0)},
      {"0:2",
       "block ranges up to 2, expected up to 3: the last block is not full, and never a hole"},
      {"", "block ranges up to 0, expected up to 3: the last block is not full, and never a hole"},
  };
  for (const auto& [text, message] : cases) {
    EXPECT_EQ(load_forged([&](Forgery& f) { f.blocks = text; }), message) << text;
  }
  EXPECT_EQ(load_forged([](Forgery& f) { f.blocks = "0:3"; }),
            "tensor \"layers.0.k\" F32 [6, 2, 3], expected F32 [10, 2, 3]");
  EXPECT_EQ(load_forged([](Forgery& f) { f.rows = 7; }),
            "tensor \"layers.0.k\" F32 [7, 2, 3], expected F32 [6, 2, 3]");
}

TEST(TableFileForged, MoreThanATableCanHaveIsRefused) {
  const auto tokens = [](const char* number) {
    return load_forged([&](Forgery& f) {
      f.num_tokens = number;
      f.blocks = "";
    });
  };
  EXPECT_EQ(tokens("2147483648"), "2147483648 tokens, expected 0 to 2147483647");
  EXPECT_EQ(tokens("9223372036854775807"), "9223372036854775807 tokens, expected 0 to 2147483647");
  EXPECT_EQ(tokens("2147483644"), "536870911 columns with holes, expected at most 16777216");
}

TEST(TableFileForged, PositionsThatNoTableHasAreRefused) {
  const auto at = [](std::size_t index, std::int64_t position) {
    return load_forged([&](Forgery& f) { f.positions[index] = position; });
  };
  static constexpr std::int64_t kMost = (std::int64_t{1} << 40) - 1;
  const auto refusal = [](std::int64_t position, std::size_t index, std::int64_t least) {
    return concat("position ", position, " at index ", index, ", expected ", least, " to ", kMost,
                  index > 0 ? ", as positions grow" : "");
  };
  EXPECT_EQ(at(0, -1), refusal(-1, 0, 0));
  EXPECT_EQ(at(0, 1), refusal(1, 1, 2));
  EXPECT_EQ(at(5, 4), refusal(4, 5, 5));
  EXPECT_EQ(at(9, kMost + 1), refusal(kMost + 1, 9, 9));
  EXPECT_EQ(at(9, std::numeric_limits<std::int64_t>::max()),
            refusal(std::numeric_limits<std::int64_t>::max(), 9, 9));
  EXPECT_EQ(at(3, std::numeric_limits<std::int64_t>::min()),
            refusal(std::numeric_limits<std::int64_t>::min(), 3, 3));
  EXPECT_EQ(at(9, 20), concat("next position 20, expected 21 to ", kMost + 1));

  const auto next = [](const char* number) {
    return load_forged([&](Forgery& f) { f.next_position = number; });
  };
  EXPECT_EQ(next("19"), concat("next position 19, expected 20 to ", kMost + 1));
  EXPECT_EQ(next("1099511627777"),
            concat("next position 1099511627777, expected 20 to ", kMost + 1));
  EXPECT_EQ(next("-1"), "quire.next_position \"-1\", expected a number, 0 to 2^63 - 1");
  EXPECT_EQ(next(""), "quire.next_position \"\", expected a number, 0 to 2^63 - 1");

  EXPECT_EQ(load_forged([](Forgery& f) { f.positions.pop_back(); }),
            "tensor \"positions\" I64 [9], expected I64 [10]");
  EXPECT_EQ(load_forged([](Forgery& f) { f.positions.clear(); }),
            "tensor \"positions\" I64 [0], expected I64 [10]");
  EXPECT_EQ(load_forged([](Forgery& f) { f.dtype = "F64"; }),
            "tensor \"positions\" F64 [10], expected I64 [10]");
  EXPECT_EQ(load_forged([](Forgery& f) { f.shape = {2, 5}; }),
            "tensor \"positions\" I64 [2, 5], expected I64 [10]");
}

// What could not be loaded is not saved.
TEST(TableFileHoles, WhatNoFileSaysIsNotSaved) {
  const TemporaryDirectory directory;
  const auto pool = new_pool(2, 1, 1);
  const auto refusal = [&](TableLayout layout) {
    BlockTable table(pool, std::move(layout));
    save_table(table, directory / "t");
    EXPECT_EQ(load_table(pool, directory / "t")->next_position(), table.next_position());
    table.extend(1);
    const std::string old = contents(directory / "t");
    const std::string message = message_of<ValueError>([&] { save_table(table, directory / "t"); });
    EXPECT_EQ(contents(directory / "t"), old);
    EXPECT_EQ(directory.names(), std::vector<std::string>{"t"});
    return message;
  };
  static constexpr std::int64_t kColumns = TableLayout::kMaxColumns;
  EXPECT_EQ(refusal({kColumns, {}, {}, kColumns}),
            concat("BlockTable.save: table: got ", kColumns + 1,
                   " columns with holes, expected at most ", kColumns));
  static constexpr std::int64_t kMost = TableLayout::kMaxPosition;
  EXPECT_EQ(refusal({0, {}, {}, kMost}), concat("BlockTable.save: table: got position ", kMost,
                                                " at index 0, expected 0 to ", kMost - 1));
  pool->check();
}

}  // namespace
}  // namespace quire::testing
