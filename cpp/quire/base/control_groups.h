// The control groups of Linux that this process is in, whose files say what it may use.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quire {

struct ControlGroup {
  std::string folder;  // with the files of the group
  bool is_v2;          // of the second version, whose files have other names
};

// The group of this process that has `controller` ("cpu", "memory"), of either version, and all
// groups above it that are to be seen here; none where nothing is known of them. `root` is the
// folder that /proc and the paths in it are looked for in.
std::vector<ControlGroup> control_groups(std::string_view controller, const std::string& root = "");

// The beginning of a file, up to 1 MiB, which of those in /proc and of groups is all of it; ""
// where there is none.
std::string contents_of(const std::string& path);

}  // namespace quire
