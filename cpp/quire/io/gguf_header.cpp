#include "quire/io/gguf_header.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "quire/io/gguf_blocks.h"
#include "quire/io/safetensors_header.h"

namespace quire {
namespace {

constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::uint32_t kMaxAxes = 4;
// Arrays in one another, each of which is a call here.
constexpr int kMostDeep = 8;
// What the shortest of each needs in a file: an empty key or name, and a value of one byte or a
// tensor without axes.
constexpr std::uint64_t kLeastValue = 8 + 4 + 1;
constexpr std::uint64_t kLeastTensor = 8 + 4 + 4 + 8;

class GgufReader {
 public:
  explicit GgufReader(const FileBytes& file) : file_(file) {}

  GgufHeader header() {
    if (!is_gguf()) refuse("another beginning", "\"GGUF\"");
    at_ = kGgufMagic.size();
    const auto version = take<std::uint32_t>("the version");
    if (version != 2 && version != 3) {
      at_ -= sizeof version;
      refuse(concat("version ", version), "2 or 3, little-endian");
    }
    const auto tensors = take<std::uint64_t>("the number of tensors");
    const auto values = take<std::uint64_t>("the number of values");
    require_room(tensors, kLeastTensor, "tensors");
    require_room(values, kLeastValue, "values");
    GgufHeader header;
    for (std::uint64_t i = 0; i < values; ++i) take_entry(&header);
    std::vector<Place> places;
    places.reserve(tensors);
    for (std::uint64_t i = 0; i < tensors; ++i) places.push_back(take_tensor(&header));
    place_tensors(alignment_of(header), places);
    return header;
  }

 private:
  // A tensor of the header, and what it says of where it begins.
  struct Place {
    const std::string* name;
    GgufHeader::Tensor* tensor;
    std::uint64_t begin, size;
  };

  [[noreturn]] void refuse(std::string_view got, std::string_view expected) const {
    file_.refuse("byte ", at_, ": ", got, ", expected ", expected);
  }
  std::uint64_t left() const { return file_.bytes.size() - at_; }

  bool is_gguf() const {
    return left() >= kGgufMagic.size() &&
           std::memcmp(file_.bytes.data(), kGgufMagic.data(), kGgufMagic.size()) == 0;
  }

  // That so many of the file's bytes are there.
  void require_bytes(std::uint64_t count, std::string_view what) const {
    if (count > left()) {
      refuse(concat(what, " of ", counted(count, "byte")),
             concat("at most the ", left(), " that are left (is the file cut short?)"));
    }
  }
  void require_room(std::uint64_t count, std::uint64_t least, std::string_view what) const {
    if (count > left() / least) {
      refuse(concat(count, " ", what),
             concat("at most ", left() / least, ", as ", left(), " bytes are left"));
    }
  }

  template <class T>
  T take(std::string_view what) {
    require_bytes(sizeof(T), what);
    T number;
    std::memcpy(&number, file_.bytes.data() + at_, sizeof number);
    at_ += sizeof number;
    return number;
  }

  std::string_view take_text(std::string_view what) {
    const auto size = take<std::uint64_t>(what);
    require_bytes(size, what);
    const std::string_view text(reinterpret_cast<const char*>(file_.bytes.data()) + at_, size);
    at_ += size;
    return text;
  }

  // A key or a name: in messages too, so it is one that can be shown.
  std::string_view take_name(std::string_view what) {
    const std::size_t begin = at_;
    const std::string_view name = take_text(what);
    for (const char letter : name) {
      if (letter >= ' ' && letter <= '~') continue;
      at_ = begin;
      refuse(concat(what, " with byte ", static_cast<int>(static_cast<unsigned char>(letter))),
             "printable ASCII");
    }
    return name;
  }

  GgufType take_type() {
    const auto type = take<std::uint32_t>("the type of a value");
    if (type >= kGgufTypes) {
      at_ -= sizeof type;
      refuse(concat("a value of type ", type), "0 to 12");
    }
    return static_cast<GgufType>(type);
  }

  // Goes over a value, and looks at it.
  void pass_value(GgufType type, int depth) {
    if (type == GgufType::text) {
      take_text("a text");
    } else if (type == GgufType::array) {
      pass_array(depth);
    } else {
      pass_numbers(type, 1);
    }
  }

  void pass_array(int depth) {
    if (depth == kMostDeep) refuse("an array in 8 others", "at most 8 in one another");
    const GgufType type = take_type();
    const auto count = take<std::uint64_t>("the length of an array");
    if (gguf_item_bytes(type) != 0) return pass_numbers(type, count);
    require_room(count, type == GgufType::text ? 8 : 12, "values of an array");
    for (std::uint64_t i = 0; i < count; ++i) pass_value(type, depth + 1);
  }

  void pass_numbers(GgufType type, std::uint64_t count) {
    const auto item = static_cast<std::uint64_t>(gguf_item_bytes(type));
    require_room(count, item, "numbers");
    if (type == GgufType::boolean) {
      for (std::uint64_t i = 0; i < count; ++i, ++at_) {
        const auto value = std::to_integer<int>(file_.bytes[at_]);
        if (value > 1) refuse(concat("a boolean of ", value), "0 or 1");
      }
    } else {
      at_ += count * item;
    }
  }

  void take_entry(GgufHeader* header) {
    const std::size_t begin = at_;
    const std::string_view key = take_name("a key");
    const GgufType type = take_type();
    const std::byte* value = file_.bytes.data() + at_;
    pass_value(type, 0);
    if (!header->metadata.emplace(key, gguf_value_at(type, value)).second) {
      at_ = begin;
      refuse(concat("key \"", key, "\" for the second time"), "it once");
    }
  }

  Place take_tensor(GgufHeader* header) {
    const std::size_t begin = at_;
    const std::string_view name = take_name("the name of a tensor");
    const auto fail = [&](std::string_view got, std::string_view expected) {
      at_ = begin;
      refuse(concat("tensor \"", name, "\" ", got), expected);
    };
    GgufHeader::Tensor tensor;
    const auto axes = take<std::uint32_t>("a number of axes");
    if (axes > kMaxAxes) fail(concat("of ", axes, " axes"), "at most 4");
    std::int64_t numbers = 1;
    std::int64_t most = 1;  // as many as there were if no axis had a length of 0
    bool overflows = false;
    for (std::uint32_t i = 0; i < axes; ++i) {
      const auto length = static_cast<std::int64_t>(take<std::uint64_t>("the length of an axis"));
      overflows |=
          length < 0 || __builtin_mul_overflow(most, std::max<std::int64_t>(length, 1), &most);
      numbers = overflows ? 0 : numbers * length;
      tensor.shape.insert(tensor.shape.begin(), length);
    }
    const auto type = take<std::uint32_t>("the type of a tensor");
    const auto place = take<std::uint64_t>("the place of a tensor");
    // no format has more than 8 bytes a number
    overflows |= most > std::numeric_limits<std::int64_t>::max() / 8;
    if (overflows) fail("of 2^60 numbers or more", "fewer");
    tensor.format = gguf_format(type);
    if (tensor.format == nullptr) fail(concat("of type ", type), "a type that GGUF has");
    const std::int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
    if (row % tensor.format->block_numbers != 0) {
      fail(concat("of ", tensor_text(tensor.format->name, tensor.shape)),
           concat("rows of whole blocks of ", tensor.format->block_numbers));
    }
    const auto size = static_cast<std::uint64_t>(tensor.format->bytes_of(numbers));
    const auto [added, is_new] = header->tensors.emplace(name, std::move(tensor));
    if (!is_new) fail("for the second time", "it once");
    return {&added->first, &added->second, place, size};
  }

  std::uint64_t alignment_of(const GgufHeader& header) const {
    const GgufValue* const value = header.find("general.alignment");
    if (value == nullptr) return kDefaultAlignment;
    const std::int64_t alignment = value->whole().value_or(0);
    if (value->type() != GgufType::uint32 || alignment <= 0 || (alignment & (alignment - 1)) != 0) {
      file_.refuse("general.alignment is no power of two of type uint32, expected one");
    }
    return static_cast<std::uint64_t>(alignment);
  }

  void place_tensors(std::uint64_t alignment, std::vector<Place>& places) const {
    const std::uint64_t start = (at_ + alignment - 1) / alignment * alignment;
    const std::uint64_t data = start > file_.bytes.size() ? 0 : file_.bytes.size() - start;
    std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
      return std::pair(a.begin, a.size) < std::pair(b.begin, b.size);
    });
    std::uint64_t end = 0;
    for (const Place& place : places) {
      const auto fail = [&](std::string_view expected) {
        file_.refuse("tensor \"", *place.name, "\" of ", counted(place.size, "byte"), " at byte ",
                     place.begin, " of the tensors, expected ", expected);
      };
      if (place.begin % alignment != 0) fail(concat("a multiple of ", alignment));
      if (place.begin > data || place.size > data - place.begin) {
        fail(concat("it within the ", data, " that follow the header (is the file cut short?)"));
      }
      if (place.begin < end) fail(concat(end, " or more, where the one before it ends"));
      end = place.begin + place.size;
      place.tensor->bytes = file_.bytes.subspan(data == 0 ? 0 : start + place.begin, place.size);
    }
  }

  const FileBytes& file_;
  std::size_t at_ = 0;
};

}  // namespace

GgufHeader read_gguf_header(const FileBytes& file) { return GgufReader(file).header(); }

}  // namespace quire
