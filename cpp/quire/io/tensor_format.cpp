#include "quire/io/tensor_format.h"

#include <cstring>

#include "quire/base/dtype.h"

namespace quire {
namespace {

// Files do not align numbers for everybody.
template <class T>
void read_one(const std::byte* from, float* to) {
  T number;
  std::memcpy(&number, from, sizeof number);
  *to = to_float(number);
}

}  // namespace

const TensorFormat* plain_format(std::string_view name) {
  static constexpr TensorFormat formats[] = {{"F32", 1, 4, &read_one<float>},
                                             {"F16", 1, 2, &read_one<Float16>},
                                             {"BF16", 1, 2, &read_one<BFloat16>}};
  for (const TensorFormat& format : formats) {
    if (format.name == name) return &format;
  }
  return nullptr;
}

}  // namespace quire
