// JSON texts as values: what is read, and what is refused and where.
#include "quire/io/json_value.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <string_view>

namespace quire {
namespace {

JsonValue read(std::string_view text) {
  return read_json({"read", "x.json", std::as_bytes(std::span(text))});
}

std::string refusal(std::string_view text) {
  try {
    read(text);
  } catch (const ValueError& error) {
    constexpr std::string_view start = "read: path: got x.json: ";
    const std::string_view message = error.what();
    EXPECT_TRUE(message.starts_with(start)) << message;
    return std::string(message.substr(std::min(start.size(), message.size())));
  }
  return "nothing thrown";
}

TEST(JsonValue, EachKindIsRead) {
  const JsonValue value =
      read(R"( {"a": [1, -2.5, "x\n", true, false, null, {}, []], "b": {"c": 1e-3}, "": 0} )");
  EXPECT_EQ(value.kind(), "an object");
  EXPECT_EQ(value.offset(), 1u);
  const auto& items = *value.find("a")->array();
  ASSERT_EQ(items.size(), 8u);
  EXPECT_EQ(*items[0].whole(), 1);
  EXPECT_EQ(items[0].real(), 1.0);
  EXPECT_EQ(items[0].offset(), 8u);
  EXPECT_EQ(items[1].whole(), nullptr);
  EXPECT_EQ(items[1].real(), -2.5);
  EXPECT_EQ(*items[2].string(), "x\n");
  EXPECT_TRUE(*items[3].boolean());
  EXPECT_FALSE(*items[4].boolean());
  EXPECT_TRUE(items[5].is_null());
  EXPECT_TRUE(items[6].object()->empty());
  EXPECT_TRUE(items[7].array()->empty());
  EXPECT_EQ(value.find("b")->find("c")->real(), 1e-3);
  EXPECT_EQ(*value.find("")->whole(), 0);
  EXPECT_EQ(value.find("c"), nullptr);
  EXPECT_EQ(items[0].find("c"), nullptr);
  EXPECT_EQ(items[7].kind(), "an array");
}

TEST(JsonValue, NumbersAreWholeWhereTheyCanBe) {
  EXPECT_EQ(*read("9223372036854775807").whole(), 9223372036854775807);
  EXPECT_EQ(*read("-9223372036854775808").whole(), -9223372036854775807 - 1);
  EXPECT_EQ(read("9223372036854775808").whole(), nullptr);
  EXPECT_EQ(read("9223372036854775808").real(), 9223372036854775808.0);
  EXPECT_EQ(read("1.0").whole(), nullptr);
  EXPECT_EQ(read("1E+2").real(), 100.0);
  EXPECT_EQ(read("0.1").real(), 0.1);
  EXPECT_TRUE(std::signbit(read("-0.0").real()));
  EXPECT_FALSE(read("true").is_number());
  for (const char* text : {"01", "-01", "1.", ".5", "+1", "1e", "1e+", "-", "0x1", "NaN",
                           "Infinity", "-Infinity", "1e999", "-1e999", "1_0", "1 2"}) {
    EXPECT_NE(refusal(text), "nothing thrown") << text;
  }
}

TEST(JsonValue, WhatIsNotOneValueIsRefusedWhereItBegins) {
  EXPECT_EQ(refusal(""), "byte 0: the end, expected a value");
  EXPECT_EQ(refusal("{} {}"), "byte 3: '{', expected blanks to the end");
  EXPECT_EQ(refusal("nul"), "byte 0: 'n', expected null");
  EXPECT_EQ(refusal("[1,]"), "byte 3: ']', expected a value");
  EXPECT_EQ(refusal("[1"), "byte 2: the end, expected ']'");
  EXPECT_EQ(refusal(R"({"a":1,"a":2})"), "byte 10: \"a\" for the second time, expected it once");
  EXPECT_EQ(refusal("{'a':1}"), "byte 1: ''', expected '\"'");
  EXPECT_EQ(refusal("\"\xff\""), "byte 1: byte 255, expected valid UTF-8");
  EXPECT_EQ(refusal("1e999"), "byte 5: the number 1e999, expected one that float64 has");
}

TEST(JsonValue, DepthIsBounded) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(refusal(nested(64)), "nothing thrown");
  EXPECT_EQ(refusal(nested(65)),
            "byte 64: an array or object in 64 others, expected at most 64 in one another");
  EXPECT_NE(refusal(std::string(1'000'000, '[')), "nothing thrown");
  std::string objects;
  for (int i = 0; i < 65; ++i) objects += "{\"a\":";
  EXPECT_NE(refusal(objects), "nothing thrown");
}

// Every beginning of a text, and every text with one byte changed, is read or refused.
TEST(JsonValue, DamagedTextsAreReadOrRefused) {
  const std::string text = R"({"a":[1,-2.5e3,"\u00e9\n"],"b":{"c":true,"d":null}})";
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_NE(refusal(text.substr(0, size)), "nothing thrown") << size;
  }
  for (std::size_t at = 0; at < text.size(); ++at) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string damaged = text;
      damaged[at] = static_cast<char>(byte);
      refusal(damaged);
    }
  }
}

}  // namespace
}  // namespace quire
