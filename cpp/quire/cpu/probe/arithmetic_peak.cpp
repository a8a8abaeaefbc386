#include "quire/cpu/probe/arithmetic_peak.h"

#include <atomic>
#include <chrono>

#include "quire/base/check.h"
#include "quire/base/dtype.h"
#include "quire/base/thread_pool.h"

namespace quire {
namespace {

using Clock = std::chrono::steady_clock;

// Some microseconds: far more than a look at the clock, far less than the whole.
constexpr std::int64_t kRounds = 1024;

// Long against the waking of a thread.
constexpr std::chrono::milliseconds kDuration{5};

}  // namespace

double arithmetic_peak(DType dtype, int num_threads, const ProbeKernels& kernels) {
  float total;
  if (kernels.arithmetic(dtype, kRounds, &total) == 0) {
    raise<ValueError>("arithmetic_peak: kind", "got \"", name_of(dtype),
                      "\", expected float32, as ", kernels.instruction_set,
                      " has no such multiply-add");
  }
  std::atomic<double> flops{0};
  const Clock::time_point begin = Clock::now();
  // a worker that gets its thread late, or only after another, finds its time spent; one round each
  // is done on the slowest machine
  run_on_threads(num_threads, [&](int) {
    double done = 0;
    float sum;
    do {
      done += kernels.arithmetic(dtype, kRounds, &sum);
    } while (Clock::now() - begin < kDuration);
    flops += done;
  });
  const std::chrono::duration<double> taken = Clock::now() - begin;
  return flops / taken.count();
}

}  // namespace quire
