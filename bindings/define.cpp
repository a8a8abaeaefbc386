#include "define.h"

#include <string>
#include <string_view>

#include "quire/base/check.h"

namespace quire::python {
namespace {

namespace py = pybind11;

// The first lines of a docstring, up to the dashes, as one.
std::string signature_of(std::string_view doc) {
  std::string signature;
  for (const char c : doc.substr(0, doc.find("\n--\n"))) {
    const bool blank = c == ' ' || c == '\n';
    if (!blank && c != '$') signature += c;  // "$self" is how C says self to inspect
    if (blank && !signature.ends_with(' ')) signature += ' ';
  }
  return signature;
}

// Whether "name(a, *, b=None)" has a parameter of this name.
bool has_parameter(std::string_view signature, std::string_view parameter) {
  const auto is_part = [](char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z');
  };
  std::size_t at = signature.find('(');
  while ((at = signature.find(parameter, at + 1)) != std::string_view::npos) {
    const char before = signature[at - 1];
    const char after = signature[at + parameter.size()];
    if ((before == '(' || before == ' ') && !is_part(after) && after != '\'') return true;
  }
  return false;
}

}  // namespace

void refuse_call(const char* function, const char* doc, std::size_t given,
                 const py::kwargs& keywords) {
  const std::string signature = signature_of(doc);
  std::string names;
  for (const auto& [key, value] : keywords) {
    const std::string name = py::str(key);
    if (name.empty() || name == "self" || !has_parameter(signature, name)) {
      raise<TypeError>(place(function, name), "got an argument of this name, expected ", signature);
    }
    names += concat(names.empty() ? " and " : ", ", name);
  }
  raise<TypeError>(place(function, "arguments"), "got ", given, " by position", names,
                   ", expected ", signature);
}

}  // namespace quire::python
