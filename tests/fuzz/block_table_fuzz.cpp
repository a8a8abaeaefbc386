// Any bytes as the life of a pool and its tables: fork, append, extend, truncate, drop_before,
// keep, free; of float32, or of a quantised dtype with open blocks. Each byte is a choice of the
// machine that the random test runs too; after each step the books are compared with a plain model,
// and from time to time all keys and values.
#include <cstddef>
#include <cstdint>

#include "kv/table/block_table_machine.h"
#include "model_bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quire::testing;
  ModelBytes bytes(data, size);
  const std::optional<OpenKind> kind = bytes.next_kind();
  const std::int64_t block_size = 1 + bytes.next() % 5, num_blocks = 4 + bytes.next() % 21;
  BlockTableMachine machine(
      kind ? new_open_pool(*kind, num_blocks, block_size) : new_pool(num_blocks, block_size),
      [&] { return bytes.next(); });
  for (int step = 0; !bytes.are_used_up(); ++step) {
    machine.step();
    machine.verify_counts();
    if (step % 8 == 0) machine.verify_contents();
  }
  machine.verify_contents();
  machine.finish();
  return 0;
}
