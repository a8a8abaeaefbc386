// The kernels of a call on threads, each with memory of its own to work in: what all of attention's
// launches are made of.
#pragma once

#include <cstdint>

#include "quire/base/aligned_buffer.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/attention/kernel_call.h"

namespace quire {

class KernelLaunch {
 public:
  // `worker_floats`: that each worker has, in `memory`, which outlives this.
  KernelLaunch(AlignedBuffer& memory, std::int64_t worker_floats, int num_threads)
      : memory_(memory), worker_floats_(round_to_line(worker_floats)), num_threads_(num_threads) {}

  // Calls body(item, scratch) for each of `count` items, which read `cost` bytes together, on as
  // many threads as that is worth.
  template <class Body>
  void deal(double cost, std::int64_t count, const Body& body) const {
    const Crew crew = attention_crew(cost, count, num_threads_);
    float* const scratch = memory_.reserve(worker_floats_, crew.workers);
    quire::deal(crew, count, [&](std::int64_t item, int worker) {
      body(item, scratch + worker * worker_floats_);
    });
  }

  // The same with body(item, upcoming, scratch), as deal_ahead does it; several workers take items
  // in the order of order(), which is not asked for otherwise.
  template <class Order, class Body>
  void deal_ahead(double cost, std::int64_t count, Order order, const Body& body) const {
    const Crew crew = attention_crew(cost, count, num_threads_);
    float* const scratch = memory_.reserve(worker_floats_, crew.workers);
    quire::deal_ahead(crew, count, crew.workers > 1 ? order() : nullptr,
                      [&](std::int64_t item, std::int64_t upcoming, int worker) {
                        body(item, upcoming, scratch + worker * worker_floats_);
                      });
  }

 private:
  AlignedBuffer& memory_;
  const std::int64_t worker_floats_;
  const int num_threads_;
};

}  // namespace quire
