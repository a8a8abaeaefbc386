#include "quire/io/tensor_file.h"

#include <sys/stat.h>

#include <cerrno>
#include <map>
#include <set>
#include <utility>

#include "quire/io/gguf_header.h"
#include "quire/io/json_value.h"
#include "quire/io/safetensors_header.h"
#include "quire/io/stored_tensors.h"

namespace quire {
namespace {

constexpr std::string_view kOneFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

// Whether there is something of this name. A link that leads nowhere is, and what the system does
// not tell counts: to open it says what is wrong.
bool exists(const std::string& path) {
  struct stat status{};
  return ::lstat(path.c_str(), &status) == 0 || errno != ENOENT;
}

bool is_directory(const std::string& path) {
  struct stat status{};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

void add_safetensors(const FileBytes& file, const std::string& name,
                     SafetensorsHeader::Tensor tensor, StoredTensors* tensors) {
  const TensorFormat* const format = plain_format(tensor.dtype);
  tensors->add(file, name, {std::move(tensor.dtype), std::move(tensor.shape)}, format,
               tensor.bytes);
}

void add_all(const FileBytes& file, StoredTensors* tensors) {
  for (auto& [name, tensor] : read_safetensors_header(file).tensors) {
    add_safetensors(file, name, tensor, tensors);
  }
}

// A file of the folder itself, whatever the index says.
bool is_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

// Which tensors each file has, by an index that may be anybody's.
std::map<std::string, std::set<std::string>> files_of(const FileBytes& file) {
  const JsonValue index = read_json(file);
  const JsonValue* const map = index.find("weight_map");
  if (map == nullptr || map->object() == nullptr) {
    file.refuse("no object \"weight_map\", expected one of the tensors and their files");
  }
  std::map<std::string, std::set<std::string>> files;
  for (const auto& [name, value] : *map->object()) {
    if (value.string() == nullptr || !is_file_name(*value.string())) {
      file.refuse("byte ", value.offset(), ": ", value.kind(), " for tensor \"", name,
                  "\", expected the name of a file of this folder");
    }
    files[*value.string()].insert(name);
  }
  return files;
}

void add_shards(std::string_view function, const std::string& folder, StoredTensors* tensors) {
  const MappedFile index(function, concat(folder, "/", kIndexFile));
  for (const auto& [name, wanted] : files_of(index.contents())) {
    const FileBytes& file = tensors->map(concat(folder, "/", name));
    SafetensorsHeader header = read_safetensors_header(file);
    for (const std::string& tensor : wanted) {
      const auto found = header.tensors.find(tensor);
      if (found == header.tensors.end()) {
        file.refuse("no tensor \"", tensor, "\", expected it here, as ", kIndexFile, " says");
      }
      add_safetensors(file, tensor, std::move(found->second), tensors);
    }
  }
}

}  // namespace

std::int64_t TensorInfo::num_columns() const { return shape.empty() ? 1 : shape.back(); }

std::int64_t TensorInfo::num_rows() const {
  std::int64_t rows = 1;
  for (std::size_t axis = 0; axis + 1 < shape.size(); ++axis) rows *= shape[axis];
  return rows;
}

std::unique_ptr<TensorFile> open_tensor_file(std::string_view function, const std::string& path) {
  expect_path(function, "path", path);
  auto tensors = std::make_unique<StoredTensors>(function, path);
  if (!is_directory(path)) {
    const FileBytes& file = tensors->map(path);
    const std::string_view text(reinterpret_cast<const char*>(file.bytes.data()),
                                file.bytes.size());
    if (text.starts_with(kGgufMagic)) {
      tensors->add_gguf(file, read_gguf_header(file));
    } else if (text.size() > kSafetensorsLengthBytes && text[kSafetensorsLengthBytes] == '{') {
      add_all(file, tensors.get());
    } else {
      file.refuse(
          "another beginning, expected the \"GGUF\" of a GGUF file, or the length and \"{\" "
          "of a safetensors file");
    }
  } else if (const std::string whole = concat(path, "/", kOneFile); exists(whole)) {
    add_all(tensors->map(whole), tensors.get());
  } else if (exists(concat(path, "/", kIndexFile))) {
    add_shards(function, path, tensors.get());
  } else {
    raise<ValueError>(place(function, "path"), "got ", path, ": a folder with neither ", kOneFile,
                      " nor ", kIndexFile, ", expected one of them");
  }
  return tensors;
}

}  // namespace quire
