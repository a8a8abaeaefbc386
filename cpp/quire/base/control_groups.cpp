#include "quire/base/control_groups.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

namespace quire {
namespace {

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(separator), text.size());
    parts.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

bool has_item(std::string_view list, std::string_view item) {
  const auto items = split(list, ',');
  return std::find(items.begin(), items.end(), item) != items.end();
}

// A file system of control groups, of the lines of /proc/self/mountinfo:
//   36 35 98:0 /root /mount/point rw,noatime shared:1 - type source rw,cpu
struct Mount {
  std::string_view root, point;  // the group that is mounted, and where
  bool is_v2;
};

std::vector<Mount> mounts_of(std::string_view controller, std::string_view mountinfo) {
  std::vector<Mount> mounts;
  for (const std::string_view line : split(mountinfo, '\n')) {
    const auto fields = split(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (dash - fields.begin() < 6 || fields.end() - dash < 4) continue;
    const bool is_v2 = dash[1] == "cgroup2";
    if (is_v2 || (dash[1] == "cgroup" && has_item(dash[3], controller))) {
      mounts.push_back({fields[3], fields[4], is_v2});
    }
  }
  return mounts;
}

// This process's group of a version, of the lines of /proc/self/cgroup, "4:cpu,cpuacct:/path".
std::string_view group_of(std::string_view controller, std::string_view cgroup, bool is_v2) {
  for (const std::string_view line : split(cgroup, '\n')) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    if (is_v2 ? line.substr(0, first) == "0" && controllers.empty()
              : has_item(controllers, controller)) {
      return line.substr(second + 1);
    }
  }
  return "/";
}

}  // namespace

std::string contents_of(const std::string& path) {
  std::string text;
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return text;
  constexpr std::size_t kMost = 1 << 20;
  char some[4096];
  ssize_t count = 0;
  while (text.size() < kMost && (count = read(file, some, sizeof some)) > 0) {
    text.append(some, static_cast<std::size_t>(count));
  }
  close(file);
  return text;
}

std::vector<ControlGroup> control_groups(std::string_view controller, const std::string& root) {
  const std::string mountinfo = contents_of(root + "/proc/self/mountinfo");
  const std::string cgroup = contents_of(root + "/proc/self/cgroup");
  std::vector<ControlGroup> groups;
  for (const Mount& mount : mounts_of(controller, mountinfo)) {
    // Below what is mounted; where it is not, as seen from inside of a container, that is it.
    std::string_view group = group_of(controller, cgroup, mount.is_v2);
    if (mount.root != "/") {
      const bool is_below = group.starts_with(mount.root) &&
                            (group.size() == mount.root.size() || group[mount.root.size()] == '/');
      group = is_below ? group.substr(mount.root.size()) : "";
    }
    if (!group.starts_with('/') || group.starts_with("/..")) group = "";
    while (group.ends_with('/')) group.remove_suffix(1);
    for (;; group = group.substr(0, group.rfind('/'))) {
      groups.push_back({root + std::string(mount.point) + std::string(group), mount.is_v2});
      if (group.empty()) break;
    }
  }
  return groups;
}

}  // namespace quire
