#include "quire/cpu/cache/stream_copy.h"

#include <algorithm>

namespace quire {

void stream_copy(std::byte* to, const std::byte* from, std::int64_t bytes) {
  const std::int64_t head = std::min((kLineBytes - past_line(to)) % kLineBytes, bytes);
  const std::int64_t end = head + (bytes - head) / kLineBytes * kLineBytes;
  if (head > 0) std::memcpy(to, from, static_cast<std::size_t>(head));
  for (std::int64_t at = head; at < end; at += kLineBytes) stream_line(to + at, from + at);
  if (end < bytes) std::memcpy(to + end, from + end, static_cast<std::size_t>(bytes - end));
}

}  // namespace quire
