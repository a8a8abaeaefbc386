#include "quire/base/available_memory.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <string_view>

#include "quire/base/control_groups.h"

namespace quire {
namespace {

std::optional<std::int64_t> number_at(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || value < 0) return std::nullopt;
  return value;
}

// The number after a name that begins a line.
std::optional<std::int64_t> number_of(std::string_view name, std::string_view text) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (line.starts_with(name)) return number_at(line.substr(name.size()));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
  }
  return std::nullopt;
}

// None: without a limit, "max" of the second version, or unknown.
std::optional<std::int64_t> left_of(const ControlGroup& group) {
  const auto number_in = [&](std::string_view file) {
    return number_at(contents_of(group.folder + std::string(file)));
  };
  const auto limit = number_in(group.is_v2 ? "/memory.max" : "/memory.limit_in_bytes");
  const auto used = number_in(group.is_v2 ? "/memory.current" : "/memory.usage_in_bytes");
  if (!limit || !used) return std::nullopt;
  const std::string stat = contents_of(group.folder + "/memory.stat");
  const std::string_view files = group.is_v2 ? "inactive_file " : "total_inactive_file ";
  return *limit - std::max<std::int64_t>(*used - number_of(files, stat).value_or(0), 0);
}

}  // namespace

std::int64_t available_memory(const std::string& root) {
  const std::string meminfo = contents_of(root + "/proc/meminfo");
  const auto kibibytes = number_of("MemAvailable:", meminfo);
  std::int64_t least = kibibytes ? *kibibytes * 1024 : std::numeric_limits<std::int64_t>::max();
  for (const ControlGroup& group : control_groups("memory", root)) {
    least = std::min(least, left_of(group).value_or(least));
  }
  return least == std::numeric_limits<std::int64_t>::max() ? 0 : std::max<std::int64_t>(least, 0);
}

}  // namespace quire
