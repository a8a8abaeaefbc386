// Any JSON text as a value: the configuration of a model, or the list of its files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "quire/io/file_bytes.h"

namespace quire {

// null, true or false, a number, a string, an array or an object. Whole numbers stay whole where
// int64 has them.
class JsonValue {
 public:
  using Array = std::vector<JsonValue>;
  using Object = std::map<std::string, JsonValue, std::less<>>;

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  // Null where it is something else. Of a whole number there is an int64 alone: real() takes both.
  const bool* boolean() const { return std::get_if<bool>(&value_); }
  const std::int64_t* whole() const { return std::get_if<std::int64_t>(&value_); }
  const std::string* string() const { return std::get_if<std::string>(&value_); }
  const Array* array() const { return std::get_if<Array>(&value_); }
  const Object* object() const { return std::get_if<Object>(&value_); }
  bool is_number() const { return whole() != nullptr || std::holds_alternative<double>(value_); }
  // A number, whole or not; 0 where it is none.
  double real() const;

  // The value of a key of an object; null where there is none, or this is no object.
  const JsonValue* find(std::string_view key) const;

  // Where its text begins, in bytes from the beginning of the file.
  std::size_t offset() const { return offset_; }
  // "a string", "an object": what this is, for messages.
  std::string_view kind() const;

 private:
  friend class JsonValueReader;

  std::variant<std::monostate, bool, std::int64_t, double, std::string, Array, Object> value_;
  std::size_t offset_ = 0;
};

// The file as one value. Throws ValueError, with the byte, where it is not exactly one JSON value
// in UTF-8, where an object has a key twice, and where arrays and objects are more than 64 deep.
// What this needs of memory is in proportion to the file.
JsonValue read_json(const FileBytes& file);

}  // namespace quire
