#include "quire/io/gguf_value.h"

#include <cstring>
#include <limits>
#include <type_traits>

namespace quire {
namespace {

template <class T>
T take(const std::byte*& at) {
  T number;
  std::memcpy(&number, at, sizeof number);
  at += sizeof number;
  return number;
}

template <class T>
GgufValue::Variant wide(T number) {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<double>(number);
  } else if constexpr (std::is_signed_v<T>) {
    return static_cast<std::int64_t>(number);
  } else {
    return static_cast<std::uint64_t>(number);
  }
}

GgufValue::Variant take_variant(GgufType type, const std::byte*& at) {
  switch (type) {
    case GgufType::uint8:
      return wide(take<std::uint8_t>(at));
    case GgufType::int8:
      return wide(take<std::int8_t>(at));
    case GgufType::uint16:
      return wide(take<std::uint16_t>(at));
    case GgufType::int16:
      return wide(take<std::int16_t>(at));
    case GgufType::uint32:
      return wide(take<std::uint32_t>(at));
    case GgufType::int32:
      return wide(take<std::int32_t>(at));
    case GgufType::float32:
      return wide(take<float>(at));
    case GgufType::boolean:
      return take<std::uint8_t>(at) != 0;
    case GgufType::text: {
      const auto size = take<std::uint64_t>(at);
      const std::string_view text(reinterpret_cast<const char*>(at), size);
      at += size;
      return text;
    }
    case GgufType::array: {
      GgufArray array;
      array.type = static_cast<GgufType>(take<std::uint32_t>(at));
      array.size = static_cast<std::int64_t>(take<std::uint64_t>(at));
      const std::byte* const begin = at;
      if (const std::int64_t item = gguf_item_bytes(array.type); item != 0) {
        at += item * array.size;
      } else {
        for (std::int64_t i = 0; i < array.size; ++i) take_variant(array.type, at);
      }
      array.bytes = {begin, at};
      return array;
    }
    case GgufType::uint64:
      return wide(take<std::uint64_t>(at));
    case GgufType::int64:
      return wide(take<std::int64_t>(at));
    default:
      return wide(take<double>(at));
  }
}

}  // namespace

GgufValue gguf_value_at(GgufType type, const std::byte*& at) {
  return {type, take_variant(type, at)};
}

void GgufArray::for_each(const std::function<void(const GgufValue&)>& visit) const {
  const std::byte* at = bytes.data();
  for (std::int64_t i = 0; i < size; ++i) visit(gguf_value_at(type, at));
}

std::optional<std::int64_t> GgufValue::whole() const {
  if (const auto* number = std::get_if<std::int64_t>(&value_)) return *number;
  const auto* const number = std::get_if<std::uint64_t>(&value_);
  constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (number == nullptr || *number > most) return std::nullopt;
  return static_cast<std::int64_t>(*number);
}

std::optional<double> GgufValue::real() const {
  if (const auto* number = std::get_if<double>(&value_)) return *number;
  if (const auto* number = std::get_if<std::uint64_t>(&value_)) {
    return static_cast<double>(*number);
  }
  if (const auto* number = std::get_if<std::int64_t>(&value_)) return static_cast<double>(*number);
  return std::nullopt;
}

std::optional<bool> GgufValue::boolean() const {
  const bool* const value = std::get_if<bool>(&value_);
  return value == nullptr ? std::nullopt : std::optional(*value);
}

std::optional<std::string_view> GgufValue::text() const {
  const auto* const value = std::get_if<std::string_view>(&value_);
  return value == nullptr ? std::nullopt : std::optional(*value);
}

}  // namespace quire
