// How much processor time the control groups of Linux give this process.
//
// A container with `--cpus=2` on a machine of 64 cores may run on all of them, but on average on
// two: more threads than that only use the time up sooner, and then all wait. Both versions are
// read:
//
//   v1   cpu.cfs_quota_us / cpu.cfs_period_us     -1: no limit
//   v2   cpu.max, "quota period"                  "max": no limit
//
// of the group of this process and of all groups above it that are to be seen here.
#pragma once

#include <string>

namespace quire {

// Cores' worth of time, of which the least counts; infinity where nothing limits it, or nothing is
// known of it. `root` is the folder that /proc and the paths in it are looked for in.
double cpu_quota(const std::string& root = "");

}  // namespace quire
