#include "quire/base/num_threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include "quire/base/check.h"
#include "quire/base/cpu_quota.h"

namespace quire {
namespace {

constexpr int kMostThreads = 1024;

// The number that `text` begins with, at most kMostThreads, and whether it ends there; 0 for none.
std::pair<int, bool> leading_number(const char* text) {
  int value = 0;
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc{} || value < 1) return {0, false};
  return {std::min(value, kMostThreads), stop == end};
}

int num_cores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return CPU_COUNT(&cores);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// What the control groups leave of kMostThreads, read once. Two that read at a time find the same.
int most_by_quota() {
  static std::atomic<int> most{0};
  int known = most.load(std::memory_order_relaxed);
  if (known == 0) {
    known = std::max(1, static_cast<int>(std::ceil(std::min(cpu_quota(), 1.0 * kMostThreads))));
    most.store(known, std::memory_order_relaxed);
  }
  return known;
}

}  // namespace

int default_num_threads() {
  const char* ours = std::getenv("QUIRE_NUM_THREADS");
  if (ours != nullptr && *ours != '\0') {
    const auto [value, whole] = leading_number(ours);
    if (whole) return value;
    raise<ValueError>("QUIRE_NUM_THREADS", "got \"", ours, "\", expected a whole number >= 1");
  }
  // OpenMP's may be a list, a number for each level, and is not ours to refuse
  const char* openmp = std::getenv("OMP_NUM_THREADS");
  if (openmp != nullptr) {
    while (*openmp == ' ') ++openmp;
    if (const int value = leading_number(openmp).first) return value;
  }
  return std::min(num_cores(), most_by_quota());
}

}  // namespace quire
