// Headers of safetensors files: what is read, and what is refused and why.
#include "quire/io/safetensors_header.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "quire/base/dtype.h"
#include "quire/format/cache_format.h"
#include "support/safetensors_bytes.h"

namespace quire {
namespace {

constexpr auto file_of = [](std::string_view json, std::string_view data = "",
                            std::uint64_t more = 0) {
  return testing::safetensors_of(json, data, more);
};

SafetensorsHeader read(const std::string& file) {
  return read_safetensors_header({"read", "x.safetensors", std::as_bytes(std::span(file))});
}

std::string refusal(const std::string& file) {
  try {
    read(file);
  } catch (const ValueError& error) {
    const std::string_view text = error.what();
    constexpr std::string_view start = "read: path: got x.safetensors: ";
    EXPECT_TRUE(text.starts_with(start)) << text;
    EXPECT_NE(text.find(", expected "), std::string_view::npos) << text;
    return std::string(text.substr(std::min(start.size(), text.size())));
  }
  return "nothing thrown";
}

TEST(SafetensorsHeader, TensorsAndMetadataAreRead) {
  constexpr std::string_view json =
      R"({"b":{"shape":[2,3],"data_offsets":[4,16],"dtype":"F16"}, "__metadata__" : {"k":"v"},
 "a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"c":{"dtype":"F64","shape":[0,9],
 "data_offsets":[16,16]}, "d": {"dtype":"I64","shape":[],"data_offsets":[16,24]}}   )";
  const std::string file = file_of(json, "0123456789abcdefABCDEFGH");
  const SafetensorsHeader header = read(file);
  ASSERT_EQ(header.tensors.size(), 4u);
  const auto& b = header.tensors.at("b");
  EXPECT_EQ(b.dtype, "F16");
  EXPECT_EQ(b.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(b.bytes.data(), "456789abcdef", 12), 0);
  EXPECT_EQ(header.tensors.at("d").bytes.size(), 8u);
  EXPECT_EQ(header.tensors.at("c").bytes.size(), 0u);
  const auto& value = header.metadata.at("k");
  EXPECT_EQ(value.text, "v");
  EXPECT_EQ(file[value.offset], 'v');
}

TEST(SafetensorsHeader, StringsAreUnescaped) {
  const auto value = [](std::string_view text) {
    const std::string file = file_of(concat(R"({"__metadata__":{"k":")", text, R"("}})"));
    return read(file).metadata.at("k").text;
  };
  EXPECT_EQ(value(R"(\"\\\/\b\f\n\r\t)"), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(value(R"(\u0041\u00e9\u20AC\ud83d\ude00)"), "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  EXPECT_EQ(value("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
}

TEST(SafetensorsHeader, WhatIsNoHeaderIsRefused) {
  EXPECT_EQ(refusal(""), "0 bytes, expected a safetensors file, of 8 or more");
  EXPECT_EQ(refusal("1234567"), "7 bytes, expected a safetensors file, of 8 or more");
  EXPECT_EQ(refusal(file_of("{}", "", 1)),
            "a header of 3 bytes, expected at most 2 in a safetensors file of this size");
  EXPECT_EQ(refusal(std::string(8, '\xff') + "{}"),
            "a header of 18446744073709551615 bytes, expected at most 2 in a safetensors file of "
            "this size");
  EXPECT_EQ(refusal(file_of("")), "byte 8 of the header: another beginning, expected '{'");
  EXPECT_EQ(refusal(file_of(" {}")), "byte 8 of the header: another beginning, expected '{'");
  EXPECT_EQ(refusal(file_of("{} x")), "byte 11 of the header: 'x', expected blanks to the end");
  EXPECT_EQ(refusal(file_of("{}", "x")), "1 byte after the last tensor, expected none");
}

TEST(SafetensorsHeader, JsonOfAnotherShapeIsRefusedWhereItBegins) {
  const auto json = [](std::string_view text) { return refusal(file_of(text, "0123")); };
  const std::string deep = concat("{\"a\":", std::string(100000, '['));
  EXPECT_EQ(json(deep), "byte 13 of the header: '[', expected '{'");
  EXPECT_EQ(json("{"), "byte 9 of the header: the end, expected '\"'");
  EXPECT_EQ(json(R"({"a")"), "byte 12 of the header: the end, expected ':'");
  EXPECT_EQ(json(R"({"a":1})"), "byte 13 of the header: '1', expected '{'");
  EXPECT_EQ(json(R"({"a":{"dtype":null}})"), "byte 22 of the header: 'n', expected '\"'");
  EXPECT_EQ(json(R"({"a":{"more":1}})"),
            "byte 20 of the header: key \"more\", expected dtype, shape or data_offsets");
  EXPECT_EQ(json(R"({"a":{"dtype":"U8","shape":[4]}})"),
            "byte 39 of the header: a tensor without one of them, expected dtype, shape and "
            "data_offsets");
  EXPECT_EQ(json(R"({"a":{"dtype":"U8","dtype":"U8"}})"),
            "byte 34 of the header: a key for the second time, expected it once");
  EXPECT_EQ(json(R"({"__metadata__":{"k":1}})"), "byte 29 of the header: '1', expected '\"'");
  EXPECT_EQ(json(R"({"__metadata__":{"k":"1","k":"2"}})"),
            "byte 40 of the header: a key for the second time, expected it once");
  EXPECT_EQ(json(R"({"__metadata__":{},"__metadata__":{}})"),
            "byte 42 of the header: \"__metadata__\" for the second time, expected it once");
  const std::string_view a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  EXPECT_EQ(json(concat("{", a, "}")), "nothing thrown");
  EXPECT_NE(json(concat("{", a, ",", a, "}")).find("\"a\" for the second time"), std::string::npos);
  EXPECT_NE(json(concat("{", a, ",}")).find("'}', expected '\"'"), std::string::npos);
}

TEST(SafetensorsHeader, NumbersAreNaturalOnes) {
  const auto shape = [](std::string_view text) {
    return refusal(file_of(
        concat(R"({"a":{"dtype":"U8","data_offsets":[0,4],"shape":[)", text, "]}}"), "0123"));
  };
  EXPECT_EQ(shape("4"), "nothing thrown");
  EXPECT_EQ(shape("2, 2"), "nothing thrown");
  for (const char* text : {"-4", "+4", "", "\"4\"", "4.0", "4e0", "0x4", "04", "4,", "[4]"}) {
    EXPECT_NE(shape(text), "nothing thrown") << text;
  }
  EXPECT_NE(shape("9223372036854775808").find("2^63 or more"), std::string::npos);
  EXPECT_NE(shape("99999999999999999999999999").find("2^63 or more"), std::string::npos);
  for (const char* wraps : {"4611686018427387904,4611686018427387904", "4611686018427387905,4"}) {
    EXPECT_NE(shape(wraps).find("4 bytes, expected those of"), std::string::npos);  // 2^64 + 4
  }
  EXPECT_NE(shape("1,1,1,1,1,1,1,1,4").find("ninth axis"), std::string::npos);
}

TEST(SafetensorsHeader, TextIsValidUtf8) {
  const auto text = [](std::string_view bytes) {
    return refusal(file_of(concat(R"({"__metadata__":{"k":")", bytes, R"("}})")));
  };
  EXPECT_EQ(text("\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf"), "nothing thrown");
  for (const char* bytes :
       {"\x80", "\xc3", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xed\xbf\xbf",
        "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80", "\xff", "\xc3(", "\xe2\x82"}) {
    EXPECT_NE(text(bytes).find("expected valid UTF-8"), std::string::npos);
  }
  for (const char* escape : {R"(\x)", R"(\u12)", R"(\u12g4)", R"(\ud800)", R"(\ud800\u0041)",
                             R"(\udc00)", R"(\ud800\ud800)", "\n", "\x01"}) {
    EXPECT_NE(text(escape), "nothing thrown") << escape;
  }
}

TEST(SafetensorsHeader, OffsetsCoverTheDataOnce) {
  const auto offsets = [](std::string_view a, std::string_view b) {
    return refusal(file_of(concat(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[)", a,
                                  R"(]},"b":{"dtype":"U8","shape":[4],"data_offsets":[)", b, "]}}"),
                           "01234567"));
  };
  EXPECT_EQ(offsets("0,4", "4,8"), "nothing thrown");
  EXPECT_EQ(offsets("4,8", "0,4"), "nothing thrown");
  EXPECT_EQ(offsets("0,4", "0,4"),
            "a tensor that begins at byte 0, expected 4, where the one before it ends");
  EXPECT_EQ(offsets("0,4", "3,7"),
            "a tensor that begins at byte 3, expected 4, where the one before it ends");
  EXPECT_NE(offsets("0,4", "5,9").find("at bytes 5 to 9, expected them in order"),
            std::string::npos);
  EXPECT_NE(offsets("0,4", "8,4").find("at bytes 8 to 4"), std::string::npos);
  EXPECT_NE(offsets("0,4", "4,7").find("of 3 bytes, expected those of U8 [4]"), std::string::npos);
  EXPECT_NE(offsets("0,4", "9223372036854775803,9223372036854775807").find("at bytes"),
            std::string::npos);
  const std::string unknown = R"({"a":{"dtype":"F13","shape":[4],"data_offsets":[0,4]}})";
  EXPECT_NE(refusal(file_of(unknown, "0123")).find("of dtype \"F13\""), std::string::npos);
}

TEST(SafetensorsHeader, EveryDTypeHasItsName) {
  for (const DType dtype : kDTypes) {
    EXPECT_EQ(safetensors_item_bytes(format_of(dtype).safetensors_name),
              static_cast<std::int64_t>(size_of(dtype)));
  }
}

}  // namespace
}  // namespace quire
