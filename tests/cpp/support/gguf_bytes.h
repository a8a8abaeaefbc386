// A GGUF file, written piece by piece, right or wrong.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <string_view>

#include "quire/io/gguf_value.h"

namespace quire::testing {

class GgufBytes {
 public:
  GgufBytes() = default;
  GgufBytes(std::uint64_t tensors, std::uint64_t values, std::uint32_t version = 3) {
    bytes_ = "GGUF";
    number(version).number(tensors).number(values);
  }

  template <class T>
  GgufBytes& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  GgufBytes& text(std::string_view text) {
    number<std::uint64_t>(text.size());
    bytes_ += text;
    return *this;
  }
  GgufBytes& key(std::string_view key, GgufType type) { return text(key).number(type); }
  GgufBytes& array(GgufType type, std::uint64_t size) { return number(type).number(size); }
  // Lengths as in the file: the contiguous axis first.
  GgufBytes& tensor(std::string_view name, std::initializer_list<std::uint64_t> lengths,
                    std::uint32_t type, std::uint64_t place) {
    text(name).number<std::uint32_t>(static_cast<std::uint32_t>(lengths.size()));
    for (const std::uint64_t length : lengths) number(length);
    return number(type).number(place);
  }
  GgufBytes& pad(std::size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  GgufBytes& raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }

  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace quire::testing
