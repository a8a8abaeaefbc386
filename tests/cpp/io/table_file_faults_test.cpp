// Tables in files: what is left where a call of the system fails.
#include <gtest/gtest.h>

#include <numeric>

#include "io/save_faults.h"
#include "kv/table/token_rows.h"
#include "quire/io/table_file.h"

namespace quire::testing {
namespace {

std::shared_ptr<BlockTable> table_of(std::size_t tokens) {
  std::vector<std::uint32_t> rows(tokens);
  std::iota(rows.begin(), rows.end(), 1u);
  auto table = std::make_shared<BlockTable>(new_pool(8, 4));
  append_tokens(*table, rows);
  return table;
}

TEST(TableFileFaults, OfSave) {
  const auto old_table = table_of(3), table = table_of(10);
  const auto save = [&](const TemporaryDirectory& directory) {
    save_table(*table, directory / "t");
  };
  expect_all_or_nothing([](const TemporaryDirectory&) {}, save);
  expect_all_or_nothing(
      [&](const TemporaryDirectory& directory) { save_table(*old_table, directory / "t"); }, save);
  table->pool()->check();
}

TEST(TableFileFaults, OfLoad) {
  const TemporaryDirectory directory;
  save_table(*table_of(10), directory / "t");
  const auto before = everything_in(directory);
  const auto pool = new_pool(8, 4);
  expect_faults_reported([&] { load_table(pool, directory / "t"); },
                         [&] {
                           EXPECT_EQ(pool->num_free(), 8);
                           EXPECT_EQ(everything_in(directory), before);
                         });
  pool->check();
}

TEST(TableFileFaults, PathsThatNameNothing) {
  const auto table = table_of(3);
  EXPECT_EQ(message_of<ValueError>([&] { save_table(*table, ""); }),
            "BlockTable.save: path: got an empty one, expected a path");
  EXPECT_EQ(message_of<ValueError>([&] { load_table(table->pool(), std::string()); }),
            "load_table: path: got an empty one, expected a path");
}

}  // namespace
}  // namespace quire::testing
