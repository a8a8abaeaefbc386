// Files of tables of int4 whose checksums are right and whose contents are not: columns that do not
// fit together, grids and open rows that no pool has.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <optional>

#include "io/file_support.h"
#include "kv/int4_sequence.h"
#include "kv/token_rows.h"
#include "quire/io/kv_rows.h"
#include "quire/io/table_file.h"

namespace quire::testing {
namespace {

// A table of 10 tokens, 2 columns sealed and 1 open, with checksums that are right.
struct Forgery {
  std::string num_tokens = "10";
  std::string blocks = "0:3";
  std::optional<std::string> open_columns = "1";
  std::int64_t rows = 8, num_blocks = 2, open_rows = 2;
  // Of float16 or bfloat16, by the tensor and the index in it.
  std::map<std::pair<std::string, std::size_t>, std::uint16_t> numbers;

  void save(const std::string& path, const BlockPool& pool) const {
    AtomicFile file("forge", path);
    Metadata metadata = kv_metadata("block_table", pool.geometry());
    metadata.emplace_back("quire.num_tokens", num_tokens);
    metadata.emplace_back("quire.blocks", blocks);
    if (open_columns) metadata.emplace_back("quire.open_columns", *open_columns);
    std::vector<TensorSpec> tensors = row_tensors(pool, RowsOf::tiles, rows, num_blocks);
    for (const auto& tensor : row_tensors(pool, RowsOf::open_blocks, open_rows, 1)) {
      tensors.push_back(tensor);
    }
    SafetensorsWriter writer(file, std::move(metadata), tensors);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      std::int64_t count = 1;
      for (const std::int64_t length : tensors[i].shape) count *= length;
      if (tensors[i].dtype == "U8") {
        writer.write(i, std::vector<std::uint8_t>(count, 0x5a));
        continue;
      }
      std::vector<std::uint16_t> halves(count, 1);  // the smallest step
      for (const auto& [place, bits] : numbers) {
        if (place.first == tensors[i].name) halves.at(place.second) = bits;
      }
      writer.write(i, halves);
    }
    writer.finish();
    file.commit();
  }
};

std::string load_forged(const std::function<void(Forgery&)>& forge) {
  const TemporaryDirectory directory;
  const auto pool = new_int4_pool(8);
  Forgery forgery;
  forge(forgery);
  forgery.save(directory / "t", *pool);
  const std::string message =
      message_of<ValueError>([&] { load_table(pool, as_file(contents(directory / "t"))); });
  EXPECT_EQ(pool->num_used(), 0);
  EXPECT_EQ(pool->stats().open_blocks, 0);
  EXPECT_EQ(pool->stats().peak_used, message == "nothing thrown" ? 3 : 0) << message;
  pool->check();
  constexpr std::string_view start = "load: path: got file: ";
  return message.starts_with(start) ? message.substr(start.size()) : message;
}

TEST(TableFileForgedInt4, ARightOneIsLoaded) {
  EXPECT_EQ(load_forged([](Forgery&) {}), "nothing thrown");
}

TEST(TableFileForgedInt4, ColumnsThatNoTableHasAreRefused) {
  const auto open_columns = [](const char* text) {
    return load_forged([&](Forgery& f) { f.open_columns = text; });
  };
  EXPECT_EQ(open_columns("4"), "4 open columns, expected 0 to 3");
  EXPECT_EQ(open_columns("9223372036854775807"),
            "9223372036854775807 open columns, expected 0 to 3");
  EXPECT_EQ(open_columns("-1"), "quire.open_columns \"-1\", expected a number, 0 to 2^63 - 1");
  EXPECT_EQ(open_columns("0"), "tensor \"layers.0.k\" U8 [8, 2, 2], expected U8 [10, 2, 2]");
  EXPECT_EQ(open_columns("2"), "tensor \"layers.0.k\" U8 [8, 2, 2], expected U8 [4, 2, 2]");
  EXPECT_EQ(load_forged([](Forgery& f) { f.open_columns.reset(); }),
            "no \"quire.open_columns\" in its metadata, expected a file that Quire saved");
  EXPECT_EQ(load_forged([](Forgery& f) { f.num_blocks = 3; }),
            "tensor \"layers.0.k_scale\" F16 [3, 2, 4, 2], expected F16 [2, 2, 4, 2]");
  EXPECT_EQ(load_forged([](Forgery& f) { f.open_rows = 3; }),
            "tensor \"layers.0.k_open\" BF16 [3, 2, 4], expected BF16 [2, 2, 4]");
  // All of the two last columns is open, the first of which was dropped.
  EXPECT_EQ(load_forged([](Forgery& f) {
              f.blocks = "0:1,2:3";
              f.open_columns = "2";
            }),
            "tensor \"layers.0.k\" U8 [8, 2, 2], expected U8 [4, 2, 2]");
}

TEST(TableFileForgedInt4, NumbersThatNoPoolHasAreRefused) {
  const auto with = [](const std::string& tensor, std::size_t index, std::uint16_t bits) {
    return load_forged([&](Forgery& f) { f.numbers[{tensor, index}] = bits; });
  };
  const auto refusal = [](const char* tensor, const char* what) {
    return concat("tensor \"", tensor, "\" with ", what);
  };
  const char* const grid_end = ", expected both finite, and the step positive";
  const std::string middle = " and a middle of 5.9604645e-08 at ";
  const std::pair<std::uint16_t, std::string> steps[] = {
      {0, "0"},         {0x8000, "-0"}, {0x8001, "-5.9604645e-08"}, {0xbc00, "-1"}, {0x7c00, "inf"},
      {0xfc00, "-inf"}, {0x7e00, "nan"}};
  for (const auto& [bits, text] : steps) {
    // Block 1, head 0, channel 3; token 7, head 1.
    EXPECT_EQ(with("layers.1.k_scale", 2 * (8 + 3), bits),
              refusal("layers.1.k_scale",
                      concat("a step of ", text, middle, "[1, 0, 3]", grid_end).c_str()));
    EXPECT_EQ(with("layers.0.v_scale", 2 * 15, bits),
              refusal("layers.0.v_scale",
                      concat("a step of ", text, middle, "[7, 1]", grid_end).c_str()));
  }
  for (const std::uint16_t bits : {0x7c00, 0xfc00, 0x7c01, 0xfe00}) {
    for (const char* tensor : {"layers.0.k_scale", "layers.1.v_scale"}) {
      EXPECT_NE(with(tensor, 1, bits).find("[0, 0"), std::string::npos) << tensor << bits;
    }
  }
  for (const std::uint16_t bits : {0x7bff, 0xfbff, 0x8000}) {  // middles
    EXPECT_EQ(with("layers.1.k_scale", 31, bits), "nothing thrown");
  }
  EXPECT_EQ(with("layers.1.k_scale", 30, 0x7bff), "nothing thrown");
  const char* const open_end = ", expected at most 65536 in magnitude";
  const std::pair<std::uint16_t, std::string> numbers[] = {
      {0x4781, "66048"}, {0xc781, "-66048"}, {0x7f80, "inf"}, {0xff80, "-inf"}, {0x7fc0, "nan"}};
  for (const auto& [bits, text] : numbers) {
    EXPECT_EQ(with("layers.1.k_open", 15, bits),
              refusal("layers.1.k_open",
                      concat("a number of ", text, " at [1, 1, 3]", open_end).c_str()));
    EXPECT_EQ(with("layers.0.v_open", 2, bits),
              refusal("layers.0.v_open",
                      concat("a number of ", text, " at [0, 1, 0]", open_end).c_str()));
  }
  EXPECT_EQ(with("layers.1.k_open", 15, 0xc780), "nothing thrown");
}

}  // namespace
}  // namespace quire::testing
