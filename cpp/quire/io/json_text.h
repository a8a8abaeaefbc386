// A reader of JSON (RFC 8259) whose items are asked for one by one, so that whatever else comes
// (and however deep) is refused where it begins. Whoever does not know what comes reads a
// JsonValue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "quire/io/file_bytes.h"

namespace quire {

class JsonText {
 public:
  // `text` begins at `offset` of the file, and is its `part`: nothing where it is all of it. Every
  // method throws ValueError where something else comes.
  JsonText(const FileBytes& file, std::string_view text, std::size_t offset,
           std::string_view part = "header")
      : file_(file), text_(text), offset_(offset), part_(part) {}

  // Skips blanks, then expects this character.
  void take(char expected);
  // Whether it comes, and then takes it.
  bool take_if(char expected);
  // A string, without its quotes and escapes, in UTF-8. `begin`: where in the file it starts.
  std::string string(std::size_t* begin = nullptr);
  // 0 to 2^63 - 1, in digits alone.
  std::int64_t number();
  // Any number: whole where it is written without a fraction and an exponent and int64 has it, else
  // the nearest float64, which must be finite.
  std::variant<std::int64_t, double> any_number();
  // The character that comes next after blanks, which stays; '\0' at the end.
  char next();
  // Exactly this word: true, false or null.
  void take_word(std::string_view word);
  // Where in the file the next byte is.
  std::size_t offset() const { return offset_ + at_; }
  // visit() reads an item: first the comma before it, where it is not the first.
  template <class Visit>
  void items(char open, char close, Visit visit) {
    take(open);
    if (take_if(close)) return;
    do {
      visit();
    } while (take_if(','));
    take(close);
  }
  // Expects nothing but blanks.
  void end();

  // Throws: "... byte 17 of the header: `got`, expected `expected`", of the byte that comes next.
  [[noreturn]] void refuse(std::string_view got, std::string_view expected) const;
  // The same, where what was got is that byte.
  [[noreturn]] void refuse_next(std::string_view expected) const;

 private:
  void skip_blanks();
  std::uint32_t hex4();
  void take_escape(std::string* text);
  void take_utf8(std::string* text);

  const FileBytes& file_;
  const std::string_view text_;
  const std::size_t offset_;
  const std::string_view part_;
  std::size_t at_ = 0;
};

}  // namespace quire
