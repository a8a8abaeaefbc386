// Files of tables with open blocks: sealed columns and open ones come back with their bits and go
// on alike, and what is damaged is refused.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <random>
#include <thread>

#include "io/file_support.h"
#include "kv/table/open_bits.h"
#include "kv/table/open_sequence.h"
#include "kv/table/token_rows.h"
#include "quire/io/safetensors_header.h"
#include "quire/io/table_file.h"
#include "quire/kv/prefix/prefix_cache.h"
#include "quire/kv/table/held_tables.h"

namespace quire::testing {
namespace {

std::vector<std::int64_t> shape_in(const std::string& file, const std::string& tensor) {
  return read_safetensors_header(as_file(file)).tensors.at(tensor).shape;
}

// Whether nothing is missing that stood before the last token.
bool is_beginning(const BlockTable& table) {
  const auto blocks = table.blocks();
  return table.num_tokens() > 0 && table.positions().back() == table.num_tokens() - 1 &&
         std::find(blocks.begin(), blocks.end(), kHole) == blocks.end();
}

// 5 sealed columns of 4 tokens and 2 open ones.
std::shared_ptr<BlockTable> new_table(const std::shared_ptr<BlockPool>& pool) {
  auto table = std::make_shared<BlockTable>(pool);
  append_open(*table, tokens_from(0, 26));
  return table;
}

class TableFileOpen : public ::testing::TestWithParam<OpenKind> {};
using TableFileOpenConcurrency = TableFileOpen;

INSTANTIATE_TEST_SUITE_P(Kinds, TableFileOpen, ::testing::ValuesIn(kOpenKinds), NameOfKind());
INSTANTIATE_TEST_SUITE_P(Kinds, TableFileOpenConcurrency, ::testing::ValuesIn(kOpenKinds),
                         NameOfKind());

TEST_P(TableFileOpen, RandomTablesComeBackAndGoOnAlike) {
  const TemporaryDirectory directory;
  std::mt19937 random(3);
  const auto below = [&](std::size_t n) { return static_cast<std::int64_t>(random() % n); };
  int num_cut = 0, num_open_holes = 0, num_all_open = 0, num_positions = 0;
  for (int walk = 0; walk < 60; ++walk) {
    const std::int64_t block_size = 1 + below(5);
    const auto pool = new_open_pool(GetParam(), 200, block_size);
    PrefixCache cache(pool);
    auto table = std::make_shared<BlockTable>(pool);
    std::uint32_t next = 1;
    std::int64_t sequence = 0;
    for (int step = 0; step < 10; ++step) {
      const std::int64_t size = table->num_tokens();
      const std::int64_t count = below(5 * block_size);
      switch (below(8)) {
        case 0:
        case 6:
          append_open(*table, tokens_from(next, count));
          break;
        case 1:
          extend_open(*table, tokens_from(next, count));
          break;
        case 2:
          table->drop_before(below(table->next_position() + 1), below(9));
          break;
        case 3:
        case 4: {
          // one that was loaded reads what it has as it was, also in a block that is cut short
          if (size > 0 && below(4) > 0) table = load_table(pool, directory / "t");
          const std::int64_t length = size - below(std::min(size, 5 * block_size) + 1);
          const bool is_hole =
              length % block_size != 0 && table->blocks()[length / block_size] == kHole;
          table->truncate(is_hole ? length / block_size * block_size : length);
          break;
        }
        case 5: {
          const auto all = table->positions();
          const auto blocks = table->blocks();
          std::vector<std::int64_t> kept;
          for (std::int64_t i = 0; i < size; ++i) {
            if (blocks[i / block_size] != kHole && below(5) > 0) kept.push_back(all[i]);
          }
          table->keep(kept);
          break;
        }
        default: {  // another, of sealed blocks alone but the last
          const std::vector<std::int64_t> ids(size, ++sequence);
          if (!is_beginning(*table)) break;
          cache.insert(ids, *table);
          table = cache.match(ids);
          break;
        }
      }
      next += static_cast<std::uint32_t>(count);
      save_table(*table, directory / "t");
      const auto columns = table->explain();
      const BlockTable* const tables[] = {table.get()};
      const std::int64_t num_open = HeldTables("test", tables).layout(0).num_open;
      num_open_holes += std::count_if(columns.end() - num_open, columns.end(),
                                      [](const auto& column) { return column.id == kHole; });
      if (!columns.empty()) {
        num_cut += !columns.back().is_open && table->num_tokens() % block_size != 0;
        num_all_open += columns.front().is_open;
      }
      num_positions +=
          !table->positions().empty() && table->positions().back() >= table->num_tokens();

      const auto needed = std::count_if(columns.begin(), columns.end(),
                                        [](const auto& column) { return column.id != kHole; });
      const auto other = new_open_pool(GetParam(), needed + 9, block_size);
      poison(*other);
      {
        const auto loaded = load_table(other, directory / "t");
        EXPECT_EQ(other->num_used(), needed);
        EXPECT_EQ(other->stats().open_blocks,
                  std::count_if(columns.begin(), columns.end(), [](auto& c) { return c.is_open; }));
        EXPECT_EQ(loaded->positions(), table->positions());
        EXPECT_EQ(loaded->next_position(), table->next_position());
        ASSERT_EQ(read_bits(*loaded), read_bits(*table));
        other->check();
        save_table(*loaded, directory / "again");
        EXPECT_EQ(contents(directory / "t"), contents(directory / "again"));
        const auto fork = table->fork();
        for (const std::int64_t more : {std::int64_t{1}, 2 * block_size}) {
          append_open(*loaded, tokens_from(next, more));
          append_open(*fork, tokens_from(next, more));
          ASSERT_EQ(read_bits(*loaded), read_bits(*fork));
        }
        other->check();
      }
      EXPECT_EQ(other->num_used(), 0);
      EXPECT_EQ(other->stats().open_blocks, 0);
      other->check();
    }
  }
  EXPECT_GT(num_cut, 10);
  EXPECT_GT(num_open_holes, 4);
  EXPECT_GT(num_all_open, 10);
  EXPECT_GT(num_positions, 10);
}

TEST(TableFileOpenInt4, OnlyRowsOfTokensAreWritten) {
  const TemporaryDirectory directory;
  const auto pool = new_int4_pool(16);
  const auto table = new_table(pool);
  save_table(*table, directory / "t");
  std::string file = contents(directory / "t");
  EXPECT_EQ(shape_in(file, "layers.1.k"), (std::vector<std::int64_t>{20, 2, 2}));
  EXPECT_EQ(shape_in(file, "layers.1.v"), (std::vector<std::int64_t>{20, 2, 1}));
  EXPECT_EQ(shape_in(file, "layers.1.k_scale"), (std::vector<std::int64_t>{5, 2, 4, 2}));
  EXPECT_EQ(shape_in(file, "layers.1.v_scale"), (std::vector<std::int64_t>{20, 2, 2}));
  EXPECT_EQ(shape_in(file, "layers.1.k_open"), (std::vector<std::int64_t>{6, 2, 4}));
  EXPECT_EQ(shape_in(file, "layers.1.v_open"), (std::vector<std::int64_t>{6, 2, 2}));
  const auto cut = load_table(pool, directory / "t");  // which cannot go back to before
  cut->truncate(10);                                   // within a sealed block
  save_table(*cut, directory / "t");
  file = contents(directory / "t");
  EXPECT_EQ(shape_in(file, "layers.0.k"), (std::vector<std::int64_t>{10, 2, 2}));
  EXPECT_EQ(shape_in(file, "layers.0.k_scale"), (std::vector<std::int64_t>{3, 2, 4, 2}));
  EXPECT_EQ(shape_in(file, "layers.0.v_scale"), (std::vector<std::int64_t>{10, 2, 2}));
  EXPECT_EQ(shape_in(file, "layers.0.k_open"), (std::vector<std::int64_t>{0, 2, 4}));
  // Whatever stands behind the last token.
  const std::int32_t last = cut->blocks().back();
  for (std::int64_t row = 2; row < 4; ++row) {
    std::memset(pool->storage().k_cache(0).at(last, row), 0x5a, 2);
    std::memset(pool->storage().v_scale(0).at(last, row), 0xff, 4);
  }
  save_table(*cut, directory / "again");
  EXPECT_EQ(contents(directory / "again"), file);
}

// Of int4 a number that was 65504 is 65536 in bfloat16; of others any finite one, and the scale of
// its row when that is sealed.
TEST_P(TableFileOpen, TheLargestNumbersComeBack) {
  const TemporaryDirectory directory;
  const auto pool = new_open_pool(GetParam(), 32);
  const bool is_int4 = GetParam().dtype == DType::int4;
  const auto table = new_table(pool);
  const BFloat16 largest = is_int4 ? from_float<BFloat16>(-kLargestOnGrid) : BFloat16{0xff7f};
  const std::int64_t slot = packed(*table).back() - 32;
  std::memcpy(pool->open_blocks().k_open(1).at(slot, 0, 1), &largest, sizeof largest);
  save_table(*table, directory / "t");
  EXPECT_EQ(read_bits(*load_table(pool, directory / "t")), read_bits(*table));
  append_open(*table, tokens_from(70, 16));
  EXPECT_FALSE(table->explain()[6].is_open);
  save_table(*table, directory / "t");
  EXPECT_EQ(read_bits(*load_table(pool, directory / "t")), read_bits(*table));
}

TEST_P(TableFileOpen, EveryDamageIsRefusedAndThePoolAsItWas) {
  const TemporaryDirectory directory;
  KvGeometry geometry = geometry_of(GetParam(), 8, 2);
  geometry.num_kv_heads = 1;
  geometry.num_layers = 1;
  const auto pool = std::make_shared<BlockPool>(geometry);
  BlockTable table(pool);
  append_open(table, tokens_from(0, 7));
  save_table(table, directory / "t");
  const auto fresh = std::make_shared<BlockPool>(geometry);
  expect_every_damage_refused(contents(directory / "t"), [&](const FileBytes& file) {
    const std::int64_t peak = fresh->stats().peak_used;
    try {
      EXPECT_EQ(read_bits(*load_table(fresh, file)), read_bits(table));
    } catch (...) {
      EXPECT_EQ(fresh->stats().peak_used, peak);
      EXPECT_EQ(fresh->num_free(), 8);
      EXPECT_EQ(fresh->stats().open_blocks, 0);
      throw;
    }
  });
  EXPECT_EQ(fresh->stats().peak_used, 4);
  fresh->check();
}

// What could not be loaded is not saved. The views of a pool let anybody write anything.
TEST_P(TableFileOpen, NumbersThatNoFileHasAreNotSaved) {
  const TemporaryDirectory directory;
  const bool is_int4 = GetParam().dtype == DType::int4;
  KvGeometry geometry = geometry_of(GetParam(), 100);
  geometry.head_dim = 16384;
  const auto pool = std::make_shared<BlockPool>(geometry);
  BlockTable table(pool);
  append_open(table, tokens_from(0, 120));  // 2 MB of codes: more than is written at once
  save_table(table, directory / "t");
  const std::string old = contents(directory / "t");
  const auto refusal = [&](std::byte* at, auto bits) {
    decltype(bits) was;
    std::memcpy(&was, at, sizeof was);
    std::memcpy(at, &bits, sizeof bits);
    const std::string message = message_of<ValueError>([&] { save_table(table, directory / "t"); });
    std::memcpy(at, &was, sizeof was);
    EXPECT_TRUE(contents(directory / "t") == old);  // long
    EXPECT_EQ(directory.names(), std::vector<std::string>{"t"});
    const std::string start = "BlockTable.save: table: got layers.";
    EXPECT_TRUE(message.starts_with(start)) << message;
    return message.substr(start.size());
  };
  const KvStorage& storage = pool->storage();
  const std::int32_t block = table.blocks()[25];
  if (is_int4) {
    const std::string grid = refusal(storage.k_scale(1).at(block, 1, 2), std::uint16_t{0x7e00});
    EXPECT_TRUE(grid.starts_with("1.k_scale with a step of nan")) << grid;
    EXPECT_NE(grid.find(" at [25, 1, 2], expected"), grid.npos) << grid;
    EXPECT_NE(refusal(storage.v_scale(0).at(block, 3, 1), std::uint16_t{0}).find(" at [103, 1], "),
              std::string::npos);
  } else {
    const std::string end = concat(", expected a positive number, at most ",
                                   0x1.fep127f / largest_of(GetParam().dtype));
    EXPECT_EQ(refusal(storage.k_scale(1).at(block, 3, 1), std::nanf("")),
              concat("1.k_scale with a scale of nan at [103, 1, 0]", end));
    EXPECT_EQ(refusal(storage.v_scale(0).at(block, 0, 0), 0.0f),
              concat("0.v_scale with a scale of 0 at [100, 0, 0]", end));
  }
  const std::int64_t column = std::ssize(table.blocks()) - pool->geometry().num_open();
  const std::int64_t slot = packed(table).back() - 100;
  EXPECT_EQ(refusal(pool->open_blocks().v_open(1).at(slot, 3, 0, 1), std::uint16_t{0x7f80}),
            concat("1.v_open with a number of inf at [", 119 - 4 * column, ", 0, 1], expected at ",
                   "most ", is_int4 ? 65536.0f : 0x1.fep127f, " in magnitude"));
  save_table(table, directory / "t");
  EXPECT_TRUE(contents(directory / "t") == old);  // long
}

TEST(TableFileOpenInt4, AnotherDTypeIsRefused) {
  const TemporaryDirectory directory;
  const auto pool = new_int4_pool(16);
  save_table(*new_table(pool), directory / "t");
  KvGeometry geometry = pool->geometry();
  geometry.dtype = DType::int8;
  const auto other = std::make_shared<BlockPool>(geometry);
  EXPECT_EQ(message_of<ValueError>([&] { load_table(other, directory / "t"); }),
            concat("load_table: path: got ", directory / "t",
                   ": quire.dtype \"int4\", expected \"int8\", the pool's"));
  save_table(BlockTable(other), directory / "t");
  EXPECT_NE(message_of<ValueError>([&] {
              load_table(pool, directory / "t");
            }).find("quire.dtype \"int8\", expected \"int4\""),
            std::string::npos);
}

// While a table grows, shrinks and is forked, each file holds it as it was at one moment.
TEST_P(TableFileOpenConcurrency, SavedWhileOthersAppend) {
  const TemporaryDirectory directory;
  const auto pool = new_open_pool(GetParam(), 256);
  BlockTable table(pool);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    std::uint32_t next = 1;
    while (!done) {
      append_open(table, tokens_from(next, 7));
      next += 7;
      const auto child = table.fork();
      append_open(*child, {0});
      if (next > 400) {
        table.truncate(0);
        next = 1;
      }
    }
  });
  for (int i = 0; i < 20; ++i) {
    save_table(table, directory / "t");
    const auto loaded = load_table(pool, directory / "t");
    EXPECT_EQ(loaded->num_tokens() % 7, 0);
    OpenSequence model(pool->geometry());
    for (std::int64_t first = 0; first < loaded->num_tokens(); first += 7) {
      model.append(tokens_from(static_cast<std::uint32_t>(first + 1), 7));
    }
    EXPECT_TRUE(model.is_what(*loaded));
  }
  done = true;
  writer.join();
  pool->check();
}

}  // namespace
}  // namespace quire::testing
