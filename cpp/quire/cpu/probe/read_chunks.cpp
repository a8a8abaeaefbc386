#include "quire/cpu/probe/read_chunks.h"

#include <atomic>
#include <chrono>

#include "quire/base/thread_pool.h"

namespace quire {
namespace {

constexpr std::int64_t kLine = 64;
constexpr std::int64_t kWordsOfLine = kLine / static_cast<std::int64_t>(sizeof(std::uint64_t));

std::uint64_t read_chunk(const std::byte* chunk, const std::byte* next, std::int64_t bytes) {
  std::uint64_t sums[kWordsOfLine] = {};
  for (std::int64_t offset = 0; offset < bytes; offset += kLine) {
    __builtin_prefetch(next + offset, 0, 2);  // into the second-level cache, as attention does
    const auto* words = reinterpret_cast<const std::uint64_t*>(chunk + offset);
    for (std::int64_t i = 0; i < kWordsOfLine; ++i) sums[i] += words[i];
  }
  std::uint64_t sum = 0;
  for (const std::uint64_t part : sums) sum += part;
  return sum;
}

}  // namespace

double read_chunks(const std::byte* data, std::int64_t chunk_bytes, const std::int64_t* order,
                   std::int64_t count, int num_threads) {
  std::atomic<std::uint64_t> total{0};
  const auto start = std::chrono::steady_clock::now();
  run_on_threads(num_threads, [&](int worker) {
    const std::int64_t begin = count * worker / num_threads;
    const std::int64_t end = count * (worker + 1) / num_threads;
    std::uint64_t sum = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t next = i + 1 < end ? i + 1 : i;
      sum +=
          read_chunk(data + order[i] * chunk_bytes, data + order[next] * chunk_bytes, chunk_bytes);
    }
    total += sum;
  });
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  // the sum is looked at, so that no read can be left out
  return total.load() == 1 ? taken.count() + 1e-12 : taken.count();
}

}  // namespace quire
