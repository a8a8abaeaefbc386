// The speed of memory, as paging uses it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire {

// Reads `count` chunks of `chunk_bytes` (a multiple of 64) at data + order[i] * chunk_bytes, one
// after the other and each from its beginning, on `num_threads` threads that share the order in
// equal ranges. While a chunk is read, the next is prefetched, a line for a line. Returns the
// seconds that it took. This is the ceiling of an attention kernel over scattered blocks: it does
// nothing but read.
double read_chunks(const std::byte* data, std::int64_t chunk_bytes, const std::int64_t* order,
                   std::int64_t count, int num_threads);

}  // namespace quire
