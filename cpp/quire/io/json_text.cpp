#include "quire/io/json_text.h"

#include <charconv>
#include <limits>
#include <system_error>

namespace quire {
namespace {

void append_utf8(std::uint32_t code, std::string* text) {
  const auto put = [text](std::uint32_t byte) { *text += static_cast<char>(byte); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xc0 | (code >> 6));
  } else if (code < 0x10000) {
    put(0xe0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3f));
  } else {
    put(0xf0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3f));
    put(0x80 | ((code >> 6) & 0x3f));
  }
  put(0x80 | (code & 0x3f));
}

bool is_surrogate(std::uint32_t code) { return code >= 0xd800 && code < 0xe000; }

}  // namespace

void JsonText::refuse(std::string_view got, std::string_view expected) const {
  const std::string_view of = part_.empty() ? "" : " of the ";
  file_.refuse("byte ", offset(), of, part_, ": ", got, ", expected ", expected);
}

void JsonText::refuse_next(std::string_view expected) const {
  if (at_ == text_.size()) refuse("the end", expected);
  const char next = text_[at_];
  const auto code = static_cast<unsigned char>(next);
  refuse(code > ' ' && code < 0x7f ? concat("'", std::string_view(&next, 1), "'")
                                   : concat("byte ", static_cast<int>(code)),
         expected);
}

void JsonText::skip_blanks() {
  while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string::npos) {
    ++at_;
  }
}

bool JsonText::take_if(char expected) {
  skip_blanks();
  if (at_ == text_.size() || text_[at_] != expected) return false;
  ++at_;
  return true;
}

void JsonText::take(char expected) {
  if (!take_if(expected)) refuse_next(concat("'", std::string_view(&expected, 1), "'"));
}

void JsonText::end() {
  skip_blanks();
  if (at_ < text_.size()) refuse_next("blanks to the end");
}

std::int64_t JsonText::number() {
  skip_blanks();
  const std::size_t begin = at_;
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  std::int64_t value = 0;
  for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
    const int digit = text_[at_] - '0';
    if (value > (most - digit) / 10) refuse("a number of 2^63 or more", "a smaller one");
    value = value * 10 + digit;
  }
  if (at_ == begin) refuse_next("a number");
  if (text_[begin] == '0' && at_ > begin + 1) refuse("a number that starts with 0", "none");
  return value;
}

std::variant<std::int64_t, double> JsonText::any_number() {
  skip_blanks();
  const std::size_t begin = at_;
  const auto digits = [this] {
    const std::size_t first = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    if (at_ == first) refuse_next("a digit");
    return at_ - first;
  };
  const auto comes = [this](std::string_view any) {
    return at_ < text_.size() && any.find(text_[at_]) != std::string_view::npos;
  };
  if (comes("-")) ++at_;
  const bool leads_with_zero = comes("0");
  if (digits() > 1 && leads_with_zero) refuse("a number that starts with 0", "none");
  const bool is_whole = !comes(".eE");
  if (comes(".")) {
    ++at_;
    digits();
  }
  if (comes("eE")) {
    ++at_;
    if (comes("+-")) ++at_;
    digits();
  }
  const char* const first = text_.data() + begin;
  const char* const last = text_.data() + at_;
  std::int64_t whole = 0;
  if (is_whole && std::from_chars(first, last, whole).ec == std::errc()) return whole;
  double real = 0;
  if (std::from_chars(first, last, real).ec != std::errc()) {
    refuse(concat("the number ", text_.substr(begin, at_ - begin)), "one that float64 has");
  }
  return real;
}

char JsonText::next() {
  skip_blanks();
  return at_ < text_.size() ? text_[at_] : '\0';
}

void JsonText::take_word(std::string_view word) {
  skip_blanks();
  if (text_.substr(at_, word.size()) != word) refuse_next(word);
  at_ += word.size();
}

std::string JsonText::string(std::size_t* begin) {
  take('"');
  if (begin != nullptr) *begin = offset_ + at_;
  std::string text;
  for (;;) {
    if (at_ == text_.size()) refuse_next("the end of the string");
    const auto next = static_cast<unsigned char>(text_[at_]);
    if (next == '"') break;
    if (next < ' ') refuse_next("an escape for a control character");
    if (next == '\\') {
      ++at_;
      take_escape(&text);
    } else if (next < 0x80) {
      text += text_[at_++];
    } else {
      take_utf8(&text);
    }
  }
  ++at_;
  return text;
}

std::uint32_t JsonText::hex4() {
  std::uint32_t code = 0;
  for (int i = 0; i < 4; ++i, ++at_) {
    const char next = at_ < text_.size() ? text_[at_] : ' ';
    const std::size_t digit = std::string_view("0123456789abcdefABCDEF").find(next);
    if (digit == std::string_view::npos) refuse_next("4 hexadecimal digits");
    code = code * 16 + static_cast<std::uint32_t>(digit < 16 ? digit : digit - 6);
  }
  return code;
}

// After the backslash.
void JsonText::take_escape(std::string* text) {
  constexpr std::string_view names = "\"\\/bfnrt";
  constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
  const char name = at_ < text_.size() ? text_[at_] : ' ';
  if (const std::size_t i = names.find(name); i != std::string_view::npos) {
    ++at_;
    *text += meanings[i];
    return;
  }
  if (name != 'u') refuse_next("an escape");
  ++at_;
  std::uint32_t code = hex4();
  if (is_surrogate(code)) {
    const bool paired = code < 0xdc00 && text_.substr(at_, 2) == "\\u";
    if (paired) at_ += 2;
    const std::uint32_t low = paired ? hex4() : 0;
    if (low < 0xdc00 || low >= 0xe000) refuse("half a surrogate pair", "a whole one");
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }
  append_utf8(code, text);
}

// A character of several bytes, in its shortest form (Unicode 15, table 3-7).
void JsonText::take_utf8(std::string* text) {
  const auto first = static_cast<unsigned char>(text_[at_]);
  const std::size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  const std::string_view bytes = text_.substr(at_, size);
  std::uint32_t code = first & (0x7fu >> size);
  bool valid = first >= 0xc0 && first < 0xf8 && bytes.size() == size;
  for (std::size_t i = 1; valid && i < size; ++i) {
    const auto next = static_cast<unsigned char>(bytes[i]);
    valid = (next & 0xc0) == 0x80;
    code = (code << 6) | (next & 0x3fu);
  }
  constexpr std::uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  if (!valid || code < least[size] || code > 0x10ffff || is_surrogate(code)) {
    refuse_next("valid UTF-8");
  }
  *text += bytes;
  at_ += size;
}

}  // namespace quire
