// Tables in files: they come back as they were, and what is damaged or does not fit is refused.
#include "quire/io/table_file.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <thread>

#include "io/file_support.h"
#include "kv/table/token_rows.h"

namespace quire::testing {
namespace {

std::vector<std::uint32_t> count_tokens(std::size_t size, std::uint32_t first = 1) {
  std::vector<std::uint32_t> tokens(size);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

TEST(TableFile, ComesBackInAnyPoolOfItsGeometry) {
  const TemporaryDirectory directory;
  for (const std::size_t size : {0, 1, 3, 4, 5, 8, 31}) {
    const auto pool = new_pool(32, 4);
    BlockTable table(pool);
    append_tokens(table, count_tokens(size));
    const auto child = table.fork();  // of shared blocks, the last of which is copied
    append_tokens(*child, {99});
    save_table(table, directory / "t");
    for (const auto& to : {pool, new_pool(9, 4)}) {
      const auto loaded = load_table(to, directory / "t");
      EXPECT_TRUE(holds_tokens(*loaded, count_tokens(size)));
      append_tokens(*loaded, {7});
      to->check();
    }
  }
}

TEST(TableFile, RowsPastTheLastTokenAreNotRead) {
  const TemporaryDirectory directory;
  const auto pool = new_pool(4, 4);
  BlockTable table(pool);
  append_tokens(table, count_tokens(6));
  save_table(table, directory / "a");
  append_tokens(table, {1234});
  table.truncate(6);
  save_table(table, directory / "b");
  EXPECT_EQ(contents(directory / "a"), contents(directory / "b"));
}

TEST(TableFile, EveryDamageIsRefusedAndThePoolAsItWas) {
  const TemporaryDirectory directory;
  const auto pool = new_pool(8, 4);
  {
    BlockTable table(pool);
    append_tokens(table, count_tokens(6));
    save_table(table, directory / "t");
  }
  const auto fresh = new_pool(8, 4);
  expect_every_damage_refused(contents(directory / "t"), [&](const FileBytes& file) {
    const std::int64_t peak = fresh->stats().peak_used;
    try {
      load_table(fresh, file);
    } catch (...) {
      EXPECT_EQ(fresh->stats().peak_used, peak);
      EXPECT_EQ(fresh->num_free(), 8);
      throw;
    }
  });
  EXPECT_EQ(fresh->stats().peak_used, 2);  // of the good one
  fresh->check();
}

TEST(TableFile, AnotherGeometryIsRefused) {
  const TemporaryDirectory directory;
  const auto pool = new_pool(8, 4);
  BlockTable table(pool);
  append_tokens(table, count_tokens(6));
  const std::string path = directory / "t";
  save_table(table, path);
  const auto refusal = [&](std::int64_t KvGeometry::* field, std::int64_t value) {
    KvGeometry geometry = pool->geometry();
    geometry.*field = value;
    const std::string text =
        message_of<ValueError>([&] { load_table(std::make_shared<BlockPool>(geometry), path); });
    const std::string start = concat("load_table: path: got ", path, ": ");
    EXPECT_TRUE(text.starts_with(start)) << text;
    return text.substr(std::min(text.size(), start.size()));
  };
  const auto expected = [](const char* key, int found, int pools) {
    return concat("quire.", key, " \"", found, "\", expected \"", pools, "\", the pool's");
  };
  EXPECT_EQ(refusal(&KvGeometry::block_size, 5), expected("block_size", 4, 5));
  EXPECT_EQ(refusal(&KvGeometry::num_kv_heads, 1), expected("num_kv_heads", 2, 1));
  EXPECT_EQ(refusal(&KvGeometry::head_dim, 4), expected("head_dim", 3, 4));
  EXPECT_EQ(refusal(&KvGeometry::v_head_dim, 3), expected("v_head_dim", 2, 3));
  EXPECT_EQ(refusal(&KvGeometry::num_layers, 1), expected("num_layers", 2, 1));
  KvGeometry other = pool->geometry();
  other.dtype = DType::bfloat16;
  EXPECT_NE(message_of<ValueError>([&] {
              load_table(std::make_shared<BlockPool>(other), path);
            }).find("quire.dtype \"float32\", expected \"bfloat16\""),
            std::string::npos);
}

TEST(TableFile, WithoutRoomThePoolIsAsItWas) {
  const TemporaryDirectory directory;
  BlockTable table(new_pool(8, 4));
  append_tokens(table, count_tokens(11));
  save_table(table, directory / "t");
  for (const std::int64_t num_blocks : {2, 3, 4}) {
    const auto pool = new_pool(num_blocks, 4);
    const auto taken = pool->allocate(num_blocks == 4 ? 2 : 0);
    const std::int64_t room = pool->num_free();
    if (room >= 3) {
      EXPECT_EQ(load_table(pool, directory / "t")->num_tokens(), 11);
    } else {
      EXPECT_EQ(message_of<OutOfBlocks>([&] { load_table(pool, directory / "t"); }),
                concat("load_table: path: got ", directory / "t", ": 11 tokens, which take 3 ",
                       "blocks, expected at most the 2 free"));
      EXPECT_EQ(pool->stats().peak_used, static_cast<std::int64_t>(taken.size()));
    }
    EXPECT_EQ(pool->num_free(), room);
    pool->check();
  }
}

TEST(TableFile, FreedTablesAndMissingFilesAreErrors) {
  const TemporaryDirectory directory;
  BlockTable table(new_pool(8, 4));
  table.free();
  EXPECT_EQ(message_of<ValueError>([&] { save_table(table, directory / "t"); }),
            "BlockTable.save: table: got a freed one, expected one in use");
  EXPECT_TRUE(directory.names().empty());
  EXPECT_EQ(message_of<FileError>([&] { load_table(table.pool(), directory / "t"); }),
            "load_table: path: open: No such file or directory");
  std::ofstream(directory / "empty") << "";
  EXPECT_NE(message_of<ValueError>([&] {
              load_table(table.pool(), directory / "empty");
            }).find("0 bytes"),
            std::string::npos);
  EXPECT_NE(message_of<ValueError>([&] {
              load_table(table.pool(), directory / "");
            }).find("no regular file"),
            std::string::npos);
}

// While tables grow, fork and shrink, each file holds one table as it was at one moment.
TEST(TableFileConcurrency, SavedWhileOthersAppend) {
  const TemporaryDirectory directory;
  const auto pool = new_pool(256, 4);
  BlockTable table(pool);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    std::uint32_t next = 1;
    while (!done) {
      append_tokens(table, count_tokens(7, next));
      next += 7;
      const auto child = table.fork();
      append_tokens(*child, {0});
      if (next > 400) {
        table.truncate(0);
        next = 1;
      }
    }
  });
  for (int i = 0; i < 40; ++i) {
    save_table(table, directory / "t");
    const auto loaded = load_table(pool, directory / "t");
    EXPECT_EQ(loaded->num_tokens() % 7, 0);
    EXPECT_TRUE(holds_tokens(*loaded, count_tokens(loaded->num_tokens())));
  }
  done = true;
  writer.join();
  pool->check();
}

}  // namespace
}  // namespace quire::testing
