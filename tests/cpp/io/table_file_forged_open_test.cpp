// Files of tables with open blocks whose checksums are right and whose contents are not: columns
// that do not fit together, grids, scales and numbers that no pool has.
#include <gtest/gtest.h>

#include <bit>
#include <functional>
#include <map>
#include <optional>

#include "io/file_support.h"
#include "kv/table/open_rows.h"
#include "kv/table/token_rows.h"
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
  // Bits, by the tensor and the index in it.
  std::map<std::pair<std::string, std::size_t>, std::uint32_t> numbers;

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
      if (tensors[i].dtype == "F32") {
        write(writer, tensors, i, std::bit_cast<std::uint32_t>(0.5f));
      } else if (tensors[i].dtype.ends_with("F16")) {
        write(writer, tensors, i, std::uint16_t{1});  // the smallest step
      } else {
        write(writer, tensors, i, std::uint8_t{0x5a});
      }
    }
    writer.finish();
    file.commit();
  }

 private:
  template <class T>
  void write(SafetensorsWriter& writer, const std::vector<TensorSpec>& tensors, std::size_t i,
             T usual) const {
    std::int64_t count = 1;
    for (const std::int64_t length : tensors[i].shape) count *= length;
    std::vector<T> items(count, usual);
    for (const auto& [place, bits] : numbers) {
      if (place.first == tensors[i].name) items.at(place.second) = static_cast<T>(bits);
    }
    writer.write(i, items);
  }
};

std::string load_forged(const OpenKind& kind, const std::function<void(Forgery&)>& forge) {
  const TemporaryDirectory directory;
  const auto pool = new_open_pool(kind, 8);
  Forgery forgery;
  forge(forgery);
  forgery.save(directory / "t", *pool);
  const std::string message =
      message_of<ValueError>([&] { load_table(pool, as_file(contents(directory / "t"))); });
  EXPECT_EQ(pool->num_used(), 0);
  EXPECT_EQ(pool->stats().open_blocks, 0);
  EXPECT_EQ(pool->stats().peak_used, message == "nothing thrown" ? 3 : 0) << message;
  pool->check();
  return reason_of(message);
}

// Of int4.
std::string load_forged(const std::function<void(Forgery&)>& forge) {
  return load_forged({}, forge);
}

class TableFileForgedOpen : public ::testing::TestWithParam<OpenKind> {};

INSTANTIATE_TEST_SUITE_P(Kinds, TableFileForgedOpen, ::testing::ValuesIn(kOpenKinds), NameOfKind());

TEST_P(TableFileForgedOpen, ARightOneIsLoaded) {
  EXPECT_EQ(load_forged(GetParam(), [](Forgery&) {}), "nothing thrown");
}

TEST(TableFileForgedOpenInt4, ColumnsThatNoTableHasAreRefused) {
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

TEST(TableFileForgedOpenInt4, NumbersThatNoPoolHasAreRefused) {
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
}

TEST_P(TableFileForgedOpen, OpenNumbersThatNoPoolHasAreRefused) {
  const auto with = [](const std::string& tensor, std::size_t index, std::uint16_t bits) {
    return load_forged(GetParam(), [&](Forgery& f) { f.numbers[{tensor, index}] = bits; });
  };
  const bool is_int4 = GetParam().dtype == DType::int4;
  const std::string end =
      concat(", expected at most ", is_int4 ? 65536.0f : 0x1.fep127f, " in magnitude");
  std::map<std::uint16_t, std::string> numbers = {
      {0x7f80, "inf"}, {0xff80, "-inf"}, {0x7fc0, "nan"}};
  if (is_int4) numbers.insert({{0x4781, "66048"}, {0xc781, "-66048"}});
  for (const auto& [bits, text] : numbers) {
    EXPECT_EQ(with("layers.1.k_open", 15, bits),
              concat("tensor \"layers.1.k_open\" with a number of ", text, " at [1, 1, 3]", end));
    EXPECT_EQ(with("layers.0.v_open", 2, bits),
              concat("tensor \"layers.0.v_open\" with a number of ", text, " at [0, 1, 0]", end));
  }
  EXPECT_EQ(with("layers.1.k_open", 15, is_int4 ? 0xc780 : 0xff7f), "nothing thrown");
}

// They would be open rows that attention does not look at, once a table is written behind them.
TEST(TableFileForgedOpenScales, ThatNoPoolHasAreRefused) {
  for (const DType dtype : kQuantisedDTypes) {
    const auto with = [&](const std::string& tensor, std::size_t index, std::uint32_t bits) {
      return load_forged({dtype, 2}, [&](Forgery& f) { f.numbers[{tensor, index}] = bits; });
    };
    const float most = 0x1.fep127f / largest_of(dtype);
    const std::uint32_t past = std::bit_cast<std::uint32_t>(most) + 1;
    const std::pair<std::uint32_t, std::string> scales[] = {
        {0, "0"},
        {0x80000000, "-0"},
        {0xbf000000, "-0.5"},
        {0x7f800000, "inf"},
        {0xff800000, "-inf"},
        {0x7fc00000, "nan"},
        {past, concat(std::bit_cast<float>(past))}};
    for (const auto& [bits, text] : scales) {
      const std::string end = concat(" with a scale of ", text,
                                     " at [7, 1, 0], expected a positive number, at most ", most);
      EXPECT_EQ(with("layers.1.k_scale", 15, bits), "tensor \"layers.1.k_scale\"" + end);
      EXPECT_EQ(with("layers.0.v_scale", 15, bits), "tensor \"layers.0.v_scale\"" + end);
    }
    EXPECT_EQ(with("layers.0.k_scale", 15, past - 1), "nothing thrown");
    EXPECT_EQ(with("layers.0.v_scale", 0, 1), "nothing thrown");
    const bool is_int8 = dtype == DType::int8;
    const std::string wrong =
        concat(" with a number of ", is_int8 ? "-128" : "nan", " at [6, 1, 1], expected at most ",
               largest_of(dtype), " in magnitude");
    EXPECT_EQ(with("layers.1.k", 53, is_int8 ? 0x80 : 0x7f), "tensor \"layers.1.k\"" + wrong);
    EXPECT_EQ(with("layers.0.v", 27, is_int8 ? 0x80 : 0x7f), "tensor \"layers.0.v\"" + wrong);
    const std::uint8_t lowest = is_int8 ? 0x81 : dtype == DType::float8_e5m2 ? 0xfb : 0xfe;
    EXPECT_EQ(with("layers.1.k", 53, lowest), "nothing thrown");
  }
}

}  // namespace
}  // namespace quire::testing
