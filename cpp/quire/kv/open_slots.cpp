#include "quire/kv/open_slots.h"

#include <cassert>

#include "quire/base/check.h"
#include "quire/kv/block_ledger.h"

namespace quire {

OpenSlots::OpenSlots(std::int64_t num_blocks) : blocks_(num_blocks) { free_.reserve(num_blocks); }

std::int32_t OpenSlots::open(std::int32_t block) {
  Block& state = blocks_[block];
  assert(state.slot == kNone && state.pins == 0);
  if (free_.empty()) {
    state.slot = static_cast<std::int32_t>(num_touched_++);
  } else {
    state.slot = free_.back();
    free_.pop_back();
  }
  state.pins = 1;
  state.is_sealed = false;
  return state.slot;
}

void OpenSlots::unpin(std::int32_t block) {
  assert(blocks_[block].pins > 0);
  --blocks_[block].pins;
  close_if_unused(blocks_[block]);
}

void OpenSlots::note_sealed(std::int32_t block) {
  blocks_[block].is_sealed = true;
  close_if_unused(blocks_[block]);
}

void OpenSlots::note_free(std::int32_t block) {
  assert(blocks_[block].pins == 0);
  note_sealed(block);
}

void OpenSlots::close_if_unused(Block& block) {
  if (block.slot == kNone || block.pins > 0 || !block.is_sealed) return;
  free_.push_back(block.slot);  // never more than there are blocks
  block.slot = kNone;
}

void OpenSlots::check(std::int32_t block, const BlockHolders& holders) const {
  const Block& state = blocks_[block];
  const auto fail = [&](const char* what, std::int64_t got, const char* expected) {
    raise<InvariantError>(place("BlockPool.check", what), "got ", got, " for block ", block,
                          ", expected ", expected);
  };
  if (state.pins < 0 || state.pins > holders.tables) {
    fail("pins", state.pins, "0 to the tables that hold it");
  }
  const bool is_needed = state.pins > 0 || !state.is_sealed;
  if (is_needed != (state.slot != kNone)) {
    fail("open slot", state.slot, is_needed ? "one" : "none, as it is sealed and nobody's");
  }
  if (state.slot != kNone && holders.references() == 0) fail("open slot", state.slot, "none: free");
  if (holders.caches > 0 && !state.is_sealed) fail("sealed", 0, "1, as a cache holds it");
}

void OpenSlots::check() const {
  std::vector<std::int32_t> uses(static_cast<std::size_t>(num_touched_), 0);
  const auto use = [&](std::int32_t slot) {
    if (slot < 0 || slot >= num_touched_) {
      raise<InvariantError>("BlockPool.check: open slot", "got ", slot, ", expected 0 to ",
                            num_touched_ - 1);
    }
    ++uses[slot];
  };
  for (const Block& block : blocks_) {
    if (block.slot != kNone) use(block.slot);
  }
  for (const std::int32_t slot : free_) use(slot);
  for (std::size_t slot = 0; slot < uses.size(); ++slot) {
    if (uses[slot] == 1) continue;
    raise<InvariantError>("BlockPool.check: uses of open slots", "got ", uses[slot], " for slot ",
                          slot, ", expected 1");
  }
}

}  // namespace quire
