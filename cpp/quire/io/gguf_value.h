// The metadata of a GGUF file: values of thirteen types, and arrays of them.
//
// Texts and arrays stay where they lie in the file, which outlives them: only what somebody looks
// at is made, so that a file of few bytes cannot ask for much memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <variant>

namespace quire {

// By their numbers in a file.
enum class GgufType : std::uint32_t {
  uint8,
  int8,
  uint16,
  int16,
  uint32,
  int32,
  float32,
  boolean,
  text,
  array,
  uint64,
  int64,
  float64
};
inline constexpr std::uint32_t kGgufTypes = 13;

// Bytes of one value; 0 of text and array, which say how long they are.
constexpr std::int64_t gguf_item_bytes(GgufType type) {
  constexpr std::int64_t bytes[kGgufTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return bytes[static_cast<std::uint32_t>(type)];
}

class GgufValue;

// Values of one type. They were looked at when the file was read: each is in the array's bytes, and
// a boolean is 0 or 1.
struct GgufArray {
  GgufType type = GgufType::uint8;
  std::int64_t size = 0;
  std::span<const std::byte> bytes;

  // Calls visit(value) with one after the other.
  void for_each(const std::function<void(const GgufValue&)>& visit) const;
};

class GgufValue {
 public:
  // A text's bytes are meant to be UTF-8, and are what the file has.
  using Variant =
      std::variant<std::int64_t, std::uint64_t, double, bool, std::string_view, GgufArray>;

  GgufValue(GgufType type, Variant value) : type_(type), value_(value) {}

  GgufType type() const { return type_; }
  // Nothing where it is something else. Of whole numbers, of either sign and any size, those that
  // int64 has; of numbers the nearest float64.
  std::optional<std::int64_t> whole() const;
  std::optional<double> real() const;
  std::optional<bool> boolean() const;
  std::optional<std::string_view> text() const;
  const GgufArray* array() const { return std::get_if<GgufArray>(&value_); }
  // int64 of signed types, uint64 of unsigned ones, double of both floats.
  const Variant& variant() const { return value_; }

 private:
  GgufType type_;
  Variant value_;
};

// The value that begins at a byte, which was looked at when the file was read; advances to behind
// it.
GgufValue gguf_value_at(GgufType type, const std::byte*& at);

}  // namespace quire
