// Any bytes as a GGUF file, a safetensors file and a JSON text: they are refused, or what they hold
// can be read from one end to the other, and lies in them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "quire/base/check.h"
#include "quire/io/gguf_header.h"
#include "quire/io/json_value.h"
#include "quire/io/safetensors_header.h"

namespace {

using namespace quire;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::abort();
}

std::uint64_t read_so_far = 0;  // a sum that nobody can leave out

// Looks at every byte of a value, and of the values of an array, and says how many there were.
std::int64_t walk(const GgufValue& value) {
  if (const auto text = value.text()) {
    read_so_far = std::accumulate(text->begin(), text->end(), read_so_far);
  }
  std::int64_t count = 1;
  if (value.array() != nullptr) {
    value.array()->for_each([&](const GgufValue& item) { count += walk(item); });
  }
  return count;
}

void read_gguf(const FileBytes& file) {
  const GgufHeader header = read_gguf_header(file);
  std::int64_t values = 0;
  for (const auto& [key, value] : header.metadata) values += walk(value);
  require(values <= static_cast<std::int64_t>(file.bytes.size()), "a value takes a byte or more");
  for (const auto& [name, tensor] : header.tensors) {
    const TensorFormat& format = *tensor.format;
    if (format.read == nullptr) continue;
    std::vector<float> numbers(static_cast<std::size_t>(format.block_numbers));
    for (auto rest = tensor.bytes; !rest.empty();
         rest = rest.subspan(static_cast<std::size_t>(format.block_bytes))) {
      format.read(rest.data(), numbers.data());
    }
  }
}

template <class Read>
void refuse_or(Read read) {
  try {
    read();
  } catch (const ValueError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const FileBytes file{"load", "input", {reinterpret_cast<const std::byte*>(data), size}};
  refuse_or([&] { read_gguf(file); });
  refuse_or([&] { read_safetensors_header(file); });
  refuse_or([&] { read_json(file); });
  return 0;
}
