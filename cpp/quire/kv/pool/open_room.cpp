#include "quire/kv/pool/open_room.h"

#include <algorithm>
#include <limits>
#include <new>

#include "quire/base/check.h"
#include "quire/kv/pool/block_pool.h"

namespace quire {

OpenRoom::OpenRoom(BlockPool& pool)
    : pool_(pool),
      is_limited_(pool.geometry().opens_blocks() && pool.residency().is_limited()),
      most_(is_limited_ ? pool.residency().most_aside() / pool.open_blocks().slot_bytes()
                        : std::numeric_limits<std::int64_t>::max()) {}

OpenRoom::Claim::Claim(OpenRoom& room, const Asked& asked, std::int64_t least, std::int64_t most)
    : room_(most > 0 && room.is_limited() ? &room : nullptr),
      slots_(room_ == nullptr ? most : room.claim(asked, least, most)) {}

void OpenRoom::Claim::give_up() noexcept {
  if (!room_->pool_.home().is_here()) return;
  const std::lock_guard lock(room_->mutex_);
  room_->claimed_ -= slots_;
  room_->settle_locked();
}

OpenRoom::Slots OpenRoom::look() const {
  const BlockPool::Books books(pool_);
  return {books->open_slots().num_used(), books->open_slots().num_in_memory()};
}

std::int64_t OpenRoom::left() {
  const std::lock_guard lock(mutex_);
  return left(look());
}

std::int64_t OpenRoom::left(Slots slots) const {
  return std::max<std::int64_t>(0, most_ - slots.used - claimed_);
}

std::int64_t OpenRoom::claim(const Asked& asked, std::int64_t least, std::int64_t most) {
  const std::lock_guard lock(mutex_);
  const Slots slots = look();
  if (left(slots) < least) {
    raise<OutOfBlocks>(place(asked.function, asked.argument), "got ", asked.text(),
                       ", which takes ", least, " more open block", least == 1 ? "" : "s",
                       " at once, expected at most the ", left(slots),
                       " that resident_bytes has room for");
  }
  const std::int64_t more = std::min(left(slots), most);
  set_aside({slots.used + more, slots.in_memory});
  claimed_ += more;
  return more;
}

// What calls have claimed and opened counts twice.
void OpenRoom::set_aside(Slots slots) {
  const std::int64_t aside = std::min(most_, std::max(slots.used + claimed_, slots.in_memory));
  pool_.residency().set_aside(aside * pool_.open_blocks().slot_bytes());
  aside_ = aside;
}

void OpenRoom::check() {
  if (!is_limited_) return;
  const std::lock_guard lock(mutex_);
  if (const std::int64_t got = look().in_memory; got > aside_) {
    raise<InvariantError>("BlockPool.check: open slots in memory", "got ", got,
                          ", expected at most the ", aside_, " set aside for them");
  }
}

void OpenRoom::settle_limited() noexcept {
  const std::lock_guard lock(mutex_);
  settle_locked();
}

void OpenRoom::settle_locked() noexcept try {
  for (;;) {
    std::span<const std::int32_t> leaving;
    {
      const BlockPool::Books books(pool_);
      books->open_slots().note_cleared();
      leaving = books->open_slots().take_unused(kUnused);
    }
    if (leaving.empty()) break;
    for (const std::int32_t slot : leaving) pool_.open_blocks().clear(slot);
  }
  set_aside(look());
} catch (const std::bad_alloc&) {
  return;  // as much stays set aside as was
}

}  // namespace quire
