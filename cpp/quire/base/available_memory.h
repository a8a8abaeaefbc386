// How much memory this process can still take.
//
// Of Linux, the least of:
//
//   MemAvailable of /proc/meminfo            what the system can hand out without swapping
//   limit - (in use - inactive_file)         of the control group of this process, and of each
//                                            above it: files that were read can be dropped
#pragma once

#include <cstdint>
#include <string>

namespace quire {

// In bytes; 0 where nothing is left, or nothing is known. `root` is the folder that /proc and the
// paths in it are looked for in.
std::int64_t available_memory(const std::string& root = "");

}  // namespace quire
