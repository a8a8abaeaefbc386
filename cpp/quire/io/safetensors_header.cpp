#include "quire/io/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "quire/io/json_text.h"

namespace quire {
namespace {

// The most that the safetensors library reads, too.
constexpr std::uint64_t kMaxHeader = 100'000'000;
constexpr std::size_t kMaxDims = 8;

struct Entry {
  SafetensorsHeader::Tensor tensor;
  std::int64_t begin = 0, end = 0;
};

Entry read_tensor(JsonText& json) {
  Entry entry;
  bool has_dtype = false, has_shape = false, has_offsets = false;
  const auto once = [&json](bool& has) {
    if (std::exchange(has, true)) json.refuse("a key for the second time", "it once");
    json.take(':');
  };
  json.items('{', '}', [&] {
    const std::string key = json.string();
    if (key == "dtype") {
      once(has_dtype);
      entry.tensor.dtype = json.string();
    } else if (key == "shape") {
      once(has_shape);
      json.items('[', ']', [&] {
        if (entry.tensor.shape.size() == kMaxDims) json.refuse("a ninth axis", "at most 8");
        entry.tensor.shape.push_back(json.number());
      });
    } else if (key == "data_offsets") {
      once(has_offsets);
      json.take('[');
      entry.begin = json.number();
      json.take(',');
      entry.end = json.number();
      json.take(']');
    } else {
      json.refuse(concat("key \"", key, "\""), "dtype, shape or data_offsets");
    }
  });
  if (!has_dtype || !has_shape || !has_offsets) {
    json.refuse("a tensor without one of them", "dtype, shape and data_offsets");
  }
  return entry;
}

void read_metadata(JsonText& json, SafetensorsHeader* header) {
  json.items('{', '}', [&] {
    std::string key = json.string();
    json.take(':');
    SafetensorsHeader::Value value;
    value.text = json.string(&value.offset);
    if (!header->metadata.emplace(std::move(key), std::move(value)).second) {
      json.refuse("a key for the second time", "it once");
    }
  });
}

// That the offsets of a tensor are its own: as long as its shape says, and within the file.
void check_range(const FileBytes& file, const std::string& name, const Entry& entry,
                 std::int64_t data_bytes) {
  const auto& [dtype, shape, bytes] = entry.tensor;
  std::int64_t size = safetensors_item_bytes(dtype);
  if (size == 0) {
    file.refuse("tensor \"", name, "\" of dtype \"", dtype, "\", expected one of safetensors'");
  }
  bool overflows = false;
  for (const std::int64_t axis : shape) overflows |= __builtin_mul_overflow(size, axis, &size);
  if (entry.begin > entry.end || entry.end > data_bytes) {
    file.refuse("tensor \"", name, "\" at bytes ", entry.begin, " to ", entry.end,
                ", expected them in order, and within the ", data_bytes,
                " that follow the header (is the file cut short?)");
  }
  if (overflows || entry.end - entry.begin != size) {
    file.refuse("tensor \"", name, "\" of ", counted(entry.end - entry.begin, "byte"),
                ", expected those of ", tensor_text(dtype, shape));
  }
}

}  // namespace

std::int64_t safetensors_item_bytes(std::string_view dtype) {
  constexpr std::pair<std::string_view, std::int64_t> items[] = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
      {"U32", 4},  {"F32", 4}, {"I64", 8}, {"U64", 8},     {"F64", 8}};
  for (const auto& [name, bytes] : items) {
    if (name == dtype) return bytes;
  }
  return 0;
}

std::string tensor_text(std::string_view dtype, std::span<const std::int64_t> shape) {
  std::string text = concat(dtype, " [");
  for (std::size_t i = 0; i < shape.size(); ++i) text += concat(i == 0 ? "" : ", ", shape[i]);
  return text + "]";
}

SafetensorsHeader read_safetensors_header(const FileBytes& file) {
  if (file.bytes.size() < kSafetensorsLengthBytes) {
    file.refuse(counted(file.bytes.size(), "byte"), ", expected a safetensors file, of 8 or more");
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.bytes.data(), kSafetensorsLengthBytes);
  const std::uint64_t most =
      std::min<std::uint64_t>(file.bytes.size() - kSafetensorsLengthBytes, kMaxHeader);
  if (length > most) {
    file.refuse("a header of ", counted(length, "byte"), ", expected at most ", most,
                " in a safetensors file of this size");
  }
  SafetensorsHeader header;
  header.bytes = file.bytes.first(kSafetensorsLengthBytes + length);
  const auto data = file.bytes.subspan(kSafetensorsLengthBytes + length);

  std::map<std::string, Entry> entries;
  bool has_metadata = false;
  const char* const text =
      reinterpret_cast<const char*>(file.bytes.data()) + kSafetensorsLengthBytes;
  JsonText json(file, {text, length}, kSafetensorsLengthBytes);
  if (length == 0 || text[0] != '{') json.refuse("another beginning", "'{'");
  json.items('{', '}', [&] {
    const std::string name = json.string();
    json.take(':');
    const bool is_metadata = name == "__metadata__";
    if (is_metadata ? std::exchange(has_metadata, true) : entries.contains(name)) {
      json.refuse(concat("\"", name, "\" for the second time"), "it once");
    }
    if (is_metadata) {
      read_metadata(json, &header);
    } else {
      entries.emplace(name, read_tensor(json));
    }
  });
  json.end();

  std::vector<std::pair<std::int64_t, std::int64_t>> ranges;
  for (auto& [name, entry] : entries) {
    check_range(file, name, entry, static_cast<std::int64_t>(data.size()));
    ranges.emplace_back(entry.begin, entry.end);
    entry.tensor.bytes = data.subspan(entry.begin, entry.end - entry.begin);
    header.tensors.emplace(name, std::move(entry.tensor));
  }
  std::sort(ranges.begin(), ranges.end());
  std::int64_t end = 0;
  for (const auto& [begin, next_end] : ranges) {
    if (begin != end) {
      file.refuse("a tensor that begins at byte ", begin, ", expected ", end,
                  ", where the one before it ends");
    }
    end = next_end;
  }
  if (end != static_cast<std::int64_t>(data.size())) {
    file.refuse(counted(data.size() - end, "byte"), " after the last tensor, expected none");
  }
  return header;
}

}  // namespace quire
