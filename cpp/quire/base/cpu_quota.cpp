#include "quire/base/cpu_quota.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <string_view>

#include "quire/base/control_groups.h"

namespace quire {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

double number_in(std::string_view text) {
  double value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// 0 or less is no quota, as no process runs on it.
double cores_of(std::string_view quota, std::string_view period) {
  const double time = number_in(quota), each = number_in(period);
  return time > 0 && each > 0 ? time / each : kNoLimit;
}

double limit_of(const std::string& folder, bool is_v2) {
  if (is_v2) {
    const std::string text = contents_of(folder + "/cpu.max");
    const std::string_view line = std::string_view(text).substr(0, text.find('\n'));
    const std::size_t space = line.find(' ');
    if (space == line.npos) return kNoLimit;
    return cores_of(line.substr(0, space), line.substr(space + 1));
  }
  return cores_of(contents_of(folder + "/cpu.cfs_quota_us"),
                  contents_of(folder + "/cpu.cfs_period_us"));
}

}  // namespace

double cpu_quota(const std::string& root) {
  double least = kNoLimit;
  for (const ControlGroup& group : control_groups("cpu", root)) {
    least = std::min(least, limit_of(group.folder, group.is_v2));
  }
  return least;
}

}  // namespace quire
