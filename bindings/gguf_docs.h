// What help() shows of GGUF files; see docstrings.h.
#pragma once

namespace quire::python::docs {

inline constexpr const char* kGgufMetadata =
    R"(gguf_metadata(path)
--

What a GGUF file says of itself: how the model is built, and its tokenizer.

Args:
    path: of the file, of version 2 or 3. Its tensors are not read.

Returns:
    A dict of int, float, bool and str, and lists of them, by keys such as "general.architecture";
    in the order of the keys. A str that is no UTF-8 has its other bytes as surrogates, as those of
    file names (os.fsencode of them gives the bytes).

Raises:
    OSError: the file cannot be read.
    ValueError: it is no GGUF file, or not what one should be; the message says where and why.
)";

}  // namespace quire::python::docs
