// Any bytes as the life of a pool, its tables and a prefix cache: peek, match with a window or
// without, insert with holes or without, pin, fork, append, truncate, drop, free, evict, clear; of
// float32, or of a quantised dtype with open blocks. Each byte is
// a choice of the machine that the random test runs too; after each step everything is compared
// with a plain map that foretells what is found and who makes room, which exercises the radix tree
// below the cache.
#include <cstddef>
#include <cstdint>

#include "kv/prefix/prefix_cache_machine.h"
#include "model_bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quire::testing;
  ModelBytes bytes(data, size);
  const std::optional<OpenKind> kind = bytes.next_kind();
  const CacheShape shape{.num_blocks = 4 + bytes.next() % 27,
                         .block_size = 1 + bytes.next() % 5,
                         .max_blocks = bytes.next() % 40,
                         .open = kind};
  PrefixCacheMachine machine(shape, [&] { return bytes.next(); });
  for (int step = 0; !bytes.are_used_up(); ++step) {
    machine.step();
    machine.verify_counts();
    if (step % 8 == 0) machine.verify_all();
  }
  machine.verify_all();
  machine.finish();
  return 0;
}
