#include "quire/io/json_value.h"

#include <utility>

#include "quire/io/json_text.h"

namespace quire {

// Goes down one call for each array or object that is open, so there is a most of them.
class JsonValueReader {
 public:
  explicit JsonValueReader(const FileBytes& file)
      : text_(file, {reinterpret_cast<const char*>(file.bytes.data()), file.bytes.size()}, 0, "") {}

  JsonValue whole_text() {
    JsonValue value = next();
    text_.end();
    return value;
  }

 private:
  static constexpr int kMostDeep = 64;

  JsonValue next() {
    JsonValue value;
    const char first = text_.next();
    value.offset_ = text_.offset();
    switch (first) {
      case '{':
        value.value_ = object();
        break;
      case '[':
        value.value_ = array();
        break;
      case '"':
        value.value_ = text_.string();
        break;
      case 't':
        text_.take_word("true");
        value.value_ = true;
        break;
      case 'f':
        text_.take_word("false");
        value.value_ = false;
        break;
      case 'n':
        text_.take_word("null");
        break;
      default:
        if (first != '-' && (first < '0' || first > '9')) text_.refuse_next("a value");
        std::visit([&](auto number) { value.value_ = number; }, text_.any_number());
    }
    return value;
  }

  JsonValue::Array array() {
    JsonValue::Array items;
    enter();
    text_.items('[', ']', [&] { items.push_back(next()); });
    --depth_;
    return items;
  }

  JsonValue::Object object() {
    JsonValue::Object members;
    enter();
    text_.items('{', '}', [&] {
      std::string key = text_.string();
      if (members.contains(key)) {
        text_.refuse(concat("\"", key, "\" for the second time"), "it once");
      }
      text_.take(':');
      members.emplace(std::move(key), next());
    });
    --depth_;
    return members;
  }

  void enter() {
    if (++depth_ > kMostDeep) {
      text_.refuse("an array or object in 64 others", "at most 64 in one another");
    }
  }

  JsonText text_;
  int depth_ = 0;
};

double JsonValue::real() const {
  if (const auto* number = whole()) return static_cast<double>(*number);
  const double* const number = std::get_if<double>(&value_);
  return number == nullptr ? 0.0 : *number;
}

const JsonValue* JsonValue::find(std::string_view key) const {
  if (object() == nullptr) return nullptr;
  const auto found = object()->find(key);
  return found == object()->end() ? nullptr : &found->second;
}

std::string_view JsonValue::kind() const {
  constexpr std::string_view kinds[] = {"null",     "true or false", "a whole number", "a number",
                                        "a string", "an array",      "an object"};
  return kinds[value_.index()];
}

JsonValue read_json(const FileBytes& file) { return JsonValueReader(file).whole_text(); }

}  // namespace quire
