// Headers of GGUF files: what is read, and what is refused and why.
#include "quire/io/gguf_header.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "support/gguf_bytes.h"

namespace quire {
namespace {

using testing::GgufBytes;
using Type = GgufType;

GgufHeader read(const std::string& file) {
  return read_gguf_header({"read", "x.gguf", std::as_bytes(std::span(file))});
}

std::string refusal(const std::string& file) {
  try {
    read(file);
  } catch (const ValueError& error) {
    const std::string_view text = error.what();
    constexpr std::string_view start = "read: path: got x.gguf: ";
    EXPECT_TRUE(text.starts_with(start)) << text;
    EXPECT_NE(text.find(", expected "), std::string_view::npos) << text;
    return std::string(text.substr(std::min(start.size(), text.size())));
  }
  return "nothing thrown";
}
std::string refusal(const GgufBytes& file) { return refusal(file.bytes()); }

// Every type, an array of each kind, and three tensors with a gap between two.
GgufBytes whole_file() {
  GgufBytes file(3, 16);
  file.key("u8", Type::uint8).number<std::uint8_t>(255);
  file.key("i8", Type::int8).number<std::int8_t>(-128);
  file.key("u16", Type::uint16).number<std::uint16_t>(65535);
  file.key("i16", Type::int16).number<std::int16_t>(-32768);
  file.key("u32", Type::uint32).number<std::uint32_t>(4294967295u);
  file.key("i32", Type::int32).number<std::int32_t>(-2147483647 - 1);
  file.key("f32", Type::float32).number(0.1f);
  file.key("yes", Type::boolean).number<std::uint8_t>(1);
  file.key("text", Type::text).text("h\xc3\xa9");
  file.key("u64", Type::uint64).number<std::uint64_t>(18446744073709551615u);
  file.key("i64", Type::int64).number<std::int64_t>(-5);
  file.key("f64", Type::float64).number(0.1);
  file.key("numbers", Type::array).array(Type::int16, 3);
  for (const std::int16_t number : {-1, 0, 7}) file.number(number);
  file.key("texts", Type::array).array(Type::text, 3).text("a").text("").text("bc");
  file.key("nested", Type::array).array(Type::array, 2);
  file.array(Type::boolean, 2).raw(std::string_view("\0\1", 2)).array(Type::text, 1).text("deep");
  file.key("general.alignment", Type::uint32).number<std::uint32_t>(64);
  file.tensor("b", {2, 3}, 0, 64);    // F32 [3, 2]
  file.tensor("a", {32, 2}, 2, 128);  // Q4_0 [2, 32]
  file.tensor("one", {}, 30, 0);      // BF16 []
  file.pad(64).raw("12").pad(64).raw("abcdefghijklmnopqrstuvwx").pad(64);
  return file.raw(std::string(36, 'q'));
}

TEST(GgufHeader, TensorsAreRead) {
  const std::string file = whole_file().bytes();
  const GgufHeader header = read(file);
  ASSERT_EQ(header.tensors.size(), 3u);
  const auto& b = header.tensors.at("b");
  EXPECT_EQ(b.format->name, "F32");
  EXPECT_EQ(b.shape, (std::vector<std::int64_t>{3, 2}));
  ASSERT_EQ(b.bytes.size(), 24u);
  EXPECT_EQ(std::memcmp(b.bytes.data(), "abcdefghijklmnopqrstuvwx", 24), 0);
  const auto& a = header.tensors.at("a");
  EXPECT_EQ(a.format->name, "Q4_0");
  EXPECT_EQ(a.shape, (std::vector<std::int64_t>{2, 32}));
  EXPECT_EQ(std::memcmp(a.bytes.data(), std::string(36, 'q').data(), 36), 0);
  EXPECT_EQ(std::as_bytes(std::span(file)).last(36).data() - a.bytes.data(),
            file.data() + file.size() - 36 - reinterpret_cast<const char*>(a.bytes.data()));
  EXPECT_TRUE(header.tensors.at("one").shape.empty());
  EXPECT_EQ(header.tensors.at("one").bytes.size(), 2u);
}

TEST(GgufHeader, ValuesAreRead) {
  const std::string file = whole_file().bytes();
  const GgufHeader header = read(file);
  const auto whole = [&](const char* key) { return header.find(key)->whole(); };
  EXPECT_EQ(whole("u8"), 255);
  EXPECT_EQ(whole("i8"), -128);
  EXPECT_EQ(whole("u16"), 65535);
  EXPECT_EQ(whole("i16"), -32768);
  EXPECT_EQ(whole("u32"), 4294967295);
  EXPECT_EQ(whole("i32"), -2147483648);
  EXPECT_EQ(whole("i64"), -5);
  EXPECT_EQ(whole("u64"), std::nullopt);
  EXPECT_EQ(header.find("u64")->real(), 18446744073709551616.0);
  EXPECT_EQ(header.find("f32")->real(), static_cast<double>(0.1f));
  EXPECT_EQ(header.find("f32")->whole(), std::nullopt);
  EXPECT_EQ(header.find("f64")->real(), 0.1);
  EXPECT_EQ(header.find("i8")->real(), -128.0);
  EXPECT_EQ(header.find("yes")->boolean(), true);
  EXPECT_EQ(header.find("yes")->whole(), std::nullopt);
  EXPECT_EQ(header.find("yes")->real(), std::nullopt);
  EXPECT_EQ(header.find("text")->text(), "h\xc3\xa9");
  EXPECT_EQ(header.find("text")->boolean(), std::nullopt);
  EXPECT_EQ(header.find("u8")->text(), std::nullopt);
  EXPECT_EQ(header.find("u8")->array(), nullptr);
  EXPECT_EQ(header.find("none"), nullptr);
}

TEST(GgufHeader, ArraysAreRead) {
  const std::string file = whole_file().bytes();
  const GgufHeader header = read(file);
  std::vector<std::int64_t> numbers;
  header.find("numbers")->array()->for_each([&](const GgufValue& value) {
    EXPECT_EQ(value.type(), Type::int16);
    numbers.push_back(*value.whole());
  });
  EXPECT_EQ(numbers, (std::vector<std::int64_t>{-1, 0, 7}));
  std::string texts;
  header.find("texts")->array()->for_each(
      [&](const GgufValue& value) { texts += concat("<", *value.text(), ">"); });
  EXPECT_EQ(texts, "<a><><bc>");
  std::string nested;
  header.find("nested")->array()->for_each([&](const GgufValue& inner) {
    nested += concat(inner.array()->size, ":");
    inner.array()->for_each([&](const GgufValue& value) {
      nested += value.text() ? std::string(*value.text()) : *value.boolean() ? "yes" : "no";
    });
  });
  EXPECT_EQ(nested, "2:noyes1:deep");
}

TEST(GgufHeader, FilesWithoutTensorsAndOfVersion2AreRead) {
  EXPECT_TRUE(read(GgufBytes(0, 0).bytes()).tensors.empty());
  GgufBytes file(1, 0, 2);
  file.tensor("empty", {0, 5}, 2, 0);
  EXPECT_EQ(read(file.bytes()).tensors.at("empty").shape, (std::vector<std::int64_t>{5, 0}));
}

TEST(GgufHeader, WhatIsNoHeaderIsRefused) {
  EXPECT_EQ(refusal(""), "byte 0: another beginning, expected \"GGUF\"");
  EXPECT_EQ(refusal("GGU"), "byte 0: another beginning, expected \"GGUF\"");
  EXPECT_EQ(refusal("GGUF"),
            "byte 4: the version of 4 bytes, expected at most the 0 that are left (is the file cut "
            "short?)");
  EXPECT_EQ(refusal(GgufBytes(0, 0, 1)), "byte 4: version 1, expected 2 or 3, little-endian");
  EXPECT_EQ(refusal(GgufBytes(0, 0, 0x03000000)),
            "byte 4: version 50331648, expected 2 or 3, little-endian");
}

TEST(GgufHeader, CountsAreNotTakenOnTrust) {
  constexpr std::uint64_t most = 18446744073709551615u;
  EXPECT_EQ(refusal(GgufBytes(most, 0)),
            "byte 24: 18446744073709551615 tensors, expected at most 0, as 0 bytes are left");
  EXPECT_EQ(refusal(GgufBytes(0, most)),
            "byte 24: 18446744073709551615 values, expected at most 0, as 0 bytes are left");
  EXPECT_EQ(refusal(GgufBytes(0, 1).number(most).raw(std::string(20, ' '))),
            "byte 32: a key of 18446744073709551615 bytes, expected at most the 20 that are left "
            "(is the file cut short?)");
  const auto array = [](Type type, std::uint64_t size) {
    return refusal(GgufBytes(0, 1).key("k", Type::array).array(type, size).raw("12345678"));
  };
  EXPECT_EQ(array(Type::uint8, 8), "nothing thrown");
  for (std::uint32_t type = 0; type < kGgufTypes; ++type) {
    for (const std::uint64_t size : {most, most / 2, most / 4, most / 8 + 1, std::uint64_t{9}}) {
      EXPECT_NE(array(static_cast<Type>(type), size).find("expected at most"), std::string::npos)
          << type << " " << size;
    }
  }
}

TEST(GgufHeader, ValuesOfOtherKindsAreRefused) {
  const auto value = [](std::uint32_t type, std::string_view bytes) {
    return refusal(GgufBytes(0, 1).text("k").number(type).raw(bytes));
  };
  EXPECT_EQ(value(7, std::string(1, '\1')), "nothing thrown");
  EXPECT_EQ(value(7, std::string(1, '\2')), "byte 37: a boolean of 2, expected 0 or 1");
  EXPECT_EQ(value(13, "12345678"), "byte 33: a value of type 13, expected 0 to 12");
  GgufBytes twice(0, 2);
  for (int i = 0; i < 2; ++i) twice.key("k", Type::uint8).raw("1");
  EXPECT_EQ(refusal(twice), "byte 38: key \"k\" for the second time, expected it once");
  EXPECT_EQ(refusal(GgufBytes(0, 1).key("k\xff", Type::uint8).raw("1")),
            "byte 24: a key with byte 255, expected printable ASCII");
}

TEST(GgufHeader, DepthIsBounded) {
  const auto nested = [](int depth) {
    GgufBytes file(0, 1);
    file.key("k", Type::array);
    for (int i = 1; i < depth; ++i) file.array(Type::array, 1);
    return refusal(file.array(Type::uint8, 0));
  };
  EXPECT_EQ(nested(8), "nothing thrown");
  EXPECT_EQ(nested(9), "byte 133: an array in 8 others, expected at most 8 in one another");
  EXPECT_NE(nested(100'000), "nothing thrown");
}

TEST(GgufHeader, TensorsOfOtherKindsAreRefused) {
  const auto tensor = [](std::initializer_list<std::uint64_t> lengths, std::uint32_t type) {
    return refusal(GgufBytes(1, 0).tensor("t", lengths, type, 0).pad().raw(std::string(64, ' ')));
  };
  EXPECT_EQ(tensor({4, 4}, 0), "nothing thrown");
  EXPECT_EQ(tensor({1, 1, 1, 1, 1}, 0), "byte 24: tensor \"t\" of 5 axes, expected at most 4");
  EXPECT_EQ(tensor({4}, 99), "byte 24: tensor \"t\" of type 99, expected a type that GGUF has");
  EXPECT_EQ(tensor({4}, 4), "byte 24: tensor \"t\" of type 4, expected a type that GGUF has");
  EXPECT_EQ(tensor({16, 2}, 2),
            "byte 24: tensor \"t\" of Q4_0 [2, 16], expected rows of whole blocks of 32");
  const std::string huge = "byte 24: tensor \"t\" of 2^60 numbers or more, expected fewer";
  EXPECT_EQ(tensor({1ull << 60, 1}, 24), huge);
  EXPECT_EQ(tensor({1ull << 32, 1ull << 32}, 24), huge);
  EXPECT_EQ(tensor({0, 1ull << 40, 1ull << 40}, 24), huge);
  EXPECT_EQ(tensor({1ull << 63}, 24), huge);
  GgufBytes twice(2, 0);
  twice.tensor("t", {1}, 0, 0).tensor("t", {1}, 0, 32).pad().raw(std::string(64, ' '));
  EXPECT_EQ(refusal(twice), "byte 57: tensor \"t\" for the second time, expected it once");
}

TEST(GgufHeader, TensorsLieInTheFileAndApart) {
  const auto places = [](std::uint64_t first, std::uint64_t second) {
    GgufBytes file(2, 0);
    file.tensor("a", {4, 2}, 0, first).tensor("b", {1}, 0, second);
    return refusal(file.pad().raw(std::string(64, ' ')));
  };
  EXPECT_EQ(places(0, 32), "nothing thrown");
  EXPECT_EQ(places(32, 0), "nothing thrown");
  EXPECT_EQ(places(0, 0),
            "tensor \"a\" of 32 bytes at byte 0 of the tensors, expected 4 or more, where the one "
            "before it ends");
  EXPECT_EQ(places(0, 4),
            "tensor \"b\" of 4 bytes at byte 4 of the tensors, expected a multiple "
            "of 32");
  for (const std::uint64_t place : {64ull, 1ull << 40, 1ull << 63, (1ull << 63) + 32, 0ull - 32}) {
    EXPECT_NE(places(0, place).find("within the 64 that follow the header"), std::string::npos)
        << place;
  }
}

TEST(GgufHeader, AlignmentIsAPowerOfTwo) {
  const auto alignment = [](Type type, std::uint32_t value) {
    return refusal(GgufBytes(0, 1).key("general.alignment", type).number(value));
  };
  EXPECT_EQ(alignment(Type::uint32, 8), "nothing thrown");
  EXPECT_EQ(alignment(Type::uint32, 1), "nothing thrown");
  EXPECT_EQ(alignment(Type::uint32, 1u << 31), "nothing thrown");
  for (const std::uint32_t wrong : {0u, 24u, 4294967295u}) {
    EXPECT_NE(alignment(Type::uint32, wrong).find("no power of two"), std::string::npos) << wrong;
  }
  EXPECT_NE(alignment(Type::int32, 32).find("no power of two"), std::string::npos);
}

void walk(const GgufValue& value, std::int64_t* count) {
  ++*count;
  if (value.array() == nullptr) return;
  value.array()->for_each([&](const GgufValue& inner) { walk(inner, count); });
}

// Every beginning of a file is refused, and what is read of a file with one byte changed lies in
// it.
TEST(GgufHeader, DamagedFilesAreReadOrRefused) {
  const std::string file = whole_file().bytes();
  for (std::size_t size = 0; size < file.size(); ++size) {
    // on the heap, and of this size: a sanitizer sees a byte behind it
    const std::vector<std::byte> cut(reinterpret_cast<const std::byte*>(file.data()),
                                     reinterpret_cast<const std::byte*>(file.data()) + size);
    EXPECT_THROW(read_gguf_header({"read", "x.gguf", cut}), ValueError) << size;
  }
  std::int64_t read_ones = 0;
  for (std::size_t at = 0; at < file.size() - 36; ++at) {
    for (const int byte : {0, 1, 2, 9, 12, 32, 127, 128, 255}) {
      std::string damaged = file;
      damaged[at] = static_cast<char>(byte);
      const std::vector<char> bytes(damaged.begin(), damaged.end());
      try {
        const GgufHeader header = read_gguf_header({"read", "x", std::as_bytes(std::span(bytes))});
        std::int64_t values = 0;
        for (const auto& [key, value] : header.metadata) walk(value, &values);
        EXPECT_LT(values, static_cast<std::int64_t>(file.size()));
        for (const auto& [name, tensor] : header.tensors) {
          const char* const begin = reinterpret_cast<const char*>(tensor.bytes.data());
          EXPECT_TRUE(begin >= bytes.data() &&
                      begin + tensor.bytes.size() <= bytes.data() + bytes.size());
        }
        ++read_ones;
      } catch (const ValueError&) {
      }
    }
  }
  EXPECT_GT(read_ones, 100);
}

}  // namespace
}  // namespace quire
