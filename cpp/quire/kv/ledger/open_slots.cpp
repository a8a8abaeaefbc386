#include "quire/kv/ledger/open_slots.h"

#include <algorithm>
#include <cassert>

#include "quire/base/check.h"
#include "quire/kv/ledger/block_ledger.h"

namespace quire {

OpenSlots::OpenSlots(std::int64_t num_blocks) : blocks_(num_blocks) {
  if (num_blocks == 0) return;
  unused_.reserve(num_blocks);
  leaving_.reserve(kLeaveAtOnce);
  cleared_.reserve(num_blocks);
}

template <class Change>
void OpenSlots::change(std::int32_t block, Change change) {
  Block& state = blocks_[block];
  num_open_ -= state.is_open();
  change(state);
  num_open_ += state.is_open();
}

std::int32_t OpenSlots::open(std::int32_t block) {
  assert(blocks_[block].slot == kNone && blocks_[block].pins == 0);
  std::vector<std::int32_t>& slots = unused_.empty() ? cleared_ : unused_;
  std::int32_t slot = kNone;
  if (slots.empty()) {
    slot = static_cast<std::int32_t>(num_touched_++);
  } else {
    slot = slots.back();
    slots.pop_back();
  }
  change(block, [slot](Block& state) { state = {slot, 1, 1, false}; });
  assert(holds([&] { check_changed(blocks_[block]); }));
  return slot;
}

void OpenSlots::write(std::int32_t block) {
  assert(blocks_[block].readers > 0);
  blocks_[block].is_sealed = false;
  assert(holds([&] { check_changed(blocks_[block]); }));
}

void OpenSlots::pin(std::int32_t block, bool reads) {
  change(block, [reads](Block& state) {
    ++state.pins;
    state.readers += reads;
  });
  assert(holds([&] { check_changed(blocks_[block]); }));
}

void OpenSlots::unpin(std::int32_t block, bool reads) {
  assert(blocks_[block].pins > 0);
  change(block, [reads](Block& state) {
    --state.pins;
    state.readers -= reads;
  });
  close_if_unused(blocks_[block]);
  assert(holds([&] { check_changed(blocks_[block]); }));
}

void OpenSlots::stop_reading(std::int32_t block) {
  assert(blocks_[block].readers > 0);
  change(block, [](Block& state) { --state.readers; });
  assert(holds([&] { check_changed(blocks_[block]); }));
}

void OpenSlots::read_again(std::int32_t block) {
  assert(blocks_[block].pins > blocks_[block].readers);
  change(block, [](Block& state) { ++state.readers; });
  assert(holds([&] { check_changed(blocks_[block]); }));
}

void OpenSlots::note_sealed(std::int32_t block) {
  change(block, [](Block& state) { state.is_sealed = true; });
  close_if_unused(blocks_[block]);
  assert(holds([&] { check_changed(blocks_[block]); }));
}

void OpenSlots::note_free_of_some(std::int32_t block) {
  assert(blocks_[block].pins == 0);
  note_sealed(block);
}

void OpenSlots::close_if_unused(Block& block) {
  if (block.slot == kNone || block.pins > 0 || !block.is_sealed) return;
  unused_.push_back(block.slot);  // never more than there are blocks
  block.slot = kNone;
}

std::span<const std::int32_t> OpenSlots::take_unused(std::int64_t stay) {
  assert(leaving_.empty());
  const std::size_t leave = std::max<std::int64_t>(0, std::ssize(unused_) - stay);
  const auto end = unused_.begin() + std::min(leave, kLeaveAtOnce);
  leaving_.assign(unused_.begin(), end);
  unused_.erase(unused_.begin(), end);
  return leaving_;
}

void OpenSlots::note_cleared() {
  cleared_.insert(cleared_.end(), leaving_.begin(), leaving_.end());
  leaving_.clear();
}

void OpenSlots::check_changed(const Block& block) const {
  const auto expect = [](bool is_so, const char* what, std::int64_t got) {
    if (!is_so) raise<InvariantError>(place("BlockPool.check", what), "got ", got);
  };
  expect(block.readers >= 0 && block.readers <= block.pins, "readers", block.readers);
  const bool is_needed = block.pins > 0 || !block.is_sealed;
  expect(is_needed == (block.slot != kNone), "open slot", block.slot);
  expect(block.slot < num_touched_, "open slot", block.slot);
  expect(num_open_ >= 0 && num_open_ <= num_used(), "open blocks", num_open_);
}

void OpenSlots::check(std::int32_t block, const BlockHolders& holders) const {
  if (blocks_.empty()) return;
  const Block& state = blocks_[block];
  const auto fail = [&](const char* what, std::int64_t got, const char* expected) {
    raise<InvariantError>(place("BlockPool.check", what), "got ", got, " for block ", block,
                          ", expected ", expected);
  };
  if (state.pins < 0 || state.pins > holders.tables) {
    fail("pins", state.pins, "0 to the tables that hold it");
  }
  if (state.readers < 0 || state.readers > state.pins) {
    fail("readers", state.readers, "0 to the tables that have pinned it");
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
  std::int64_t open = 0;
  for (const Block& block : blocks_) {
    if (block.slot != kNone) use(block.slot);
    open += block.is_open();
  }
  for (const auto* slots : {&unused_, &leaving_, &cleared_}) {
    for (const std::int32_t slot : *slots) use(slot);
  }
  for (std::size_t slot = 0; slot < uses.size(); ++slot) {
    if (uses[slot] == 1) continue;
    raise<InvariantError>("BlockPool.check: uses of open slots", "got ", uses[slot], " for slot ",
                          slot, ", expected 1");
  }
  if (open != num_open_) {
    raise<InvariantError>("BlockPool.check: open blocks", "got ", num_open_, ", expected ", open);
  }
}

}  // namespace quire
