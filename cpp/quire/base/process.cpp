#include "quire/base/process.h"

#include <pthread.h>

namespace quire {

constinit std::atomic<std::uint64_t> process_generation{0};

namespace {

// While the library is loaded, so that no thread is there yet whom a fork could catch at it.
[[maybe_unused]] const int registered = pthread_atfork(
    nullptr, nullptr, [] { process_generation.fetch_add(1, std::memory_order_relaxed); });

}  // namespace
}  // namespace quire
