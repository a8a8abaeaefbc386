#include "quire/kv/pool/block_pool.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <new>
#include <utility>

#include "quire/base/check.h"
#include "quire/kv/residency/block_stream.h"

namespace quire {

BlockPool::BlockPool(const KvGeometry& geometry, const BackingFile& file)
    : storage_(geometry, file.path),
      open_blocks_(storage_),
      guarded_(new Guarded{
          {geometry.num_blocks, geometry.block_size, geometry.opens_blocks()}, {}, nullptr, {}}),
      ledger_(guarded_->ledger),
      events_(guarded_->events),
      listener_(guarded_->listener) {
  residency_ = make_residency(file);
  open_room_ = std::make_unique<OpenRoom>(*this);
}

std::unique_ptr<Residency> BlockPool::make_residency(const BackingFile& file) {
  if (!file.resident_bytes) return std::make_unique<Residency>(storage_);
  if (file.path.empty()) {
    raise<ValueError>("BlockPool: resident_bytes", "got ", *file.resident_bytes,
                      " without backing_file, expected both or neither");
  }
  auto residency = std::make_unique<Residency>(
      storage_, *file.resident_bytes,
      [this](std::span<Residency::Need> needs) { ask_needs(needs); },
      [this](std::int32_t block, bool kept) { note_move(block, kept); },
      OpenRoom::least_slots(geometry()) * open_blocks_.slot_bytes());  // 0 without open blocks
  storage_.memory().read_only_what_is_asked();
  return residency;
}

void BlockPool::ask_needs(std::span<Residency::Need> needs) const {
  const std::lock_guard lock(mutex_);
  for (std::int32_t block = 0; block < geometry().num_blocks; ++block) {
    const bool is_needed = ledger_.references(block) > 0 && !is_open_alone(block);  // its tile
    needs[block] = !is_needed               ? Residency::Need::nobody
                   : ledger_.is_idle(block) ? Residency::Need::caches
                                            : Residency::Need::holders;
  }
}

void BlockPool::note_move(std::int32_t block, bool kept) noexcept {
  if (!is_listened_to_.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(mutex_);
  if (listener_ == nullptr || ledger_.references(block) == 0) return;
  events_.add_move(
      kept || is_open_alone(block) ? BlockEvent::Kind::restored : BlockEvent::Kind::offloaded,
      block);
}

// As many at a time as need no memory of the heap, and no more in files than a stretch of a stream
// has, as what is not kept is in memory until it settles.
void BlockPool::seal(std::span<const std::int32_t> blocks) noexcept {
  if (blocks.empty() || !home_.is_here()) return;
  const Uninterrupted whole;
  std::array<std::int32_t, kSealedAtOnce> some;
  const auto most = std::clamp<std::int64_t>(residency_->stretch_blocks() / geometry().num_layers,
                                             1, std::ssize(some));
  for (auto next = blocks.begin(); next != blocks.end();) {
    std::int64_t count = 0;
    {
      const Books books(*this);
      for (; next != blocks.end() && count < most; ++next) {
        if (*next != kHole && !books->open_slots().is_sealed(*next)) some[count++] = *next;
      }
    }
    const auto unsealed = std::span(some).first(count);
    if (unsealed.empty()) continue;
    keep_resident(unsealed);
    seal_together(unsealed);
    settle(unsealed);
    tell_of(unsealed);
  }
}

// Others may have sealed some of them by now. A slot is its block's as long as a table reads it
// there, so it cannot change in between.
void BlockPool::seal_together(std::span<const std::int32_t> blocks) noexcept {
  std::array<OpenBlocks::BlockInSlot, kSealedAtOnce> open;
  std::size_t count = 0;
  const std::lock_guard sealing(open_blocks_.sealing());
  {
    const Books books(*this);
    const OpenSlots& slots = books->open_slots();
    for (const std::int32_t block : blocks) {
      if (!slots.is_sealed(block)) open[count++] = {slots.slot(block), block};
    }
  }
  if (count == 0) return;
  const auto unsealed = std::span(open).first(count);
  open_blocks_.seal(unsealed);
  const Books books(*this);
  for (const auto& [slot, block] : unsealed) books->open_slots().note_sealed(block);
}

void BlockPool::copy_block(std::int32_t from, std::int32_t to, std::int64_t rows) const {
  if (open_blocks_.is_open(to)) return open_blocks_.copy_rows({from, 0}, {to, 0}, rows);
  storage_.copy_block(from, to);
}

void BlockPool::copy_rows(RowPlace from, RowPlace to, std::int64_t rows) const {
  if (open_blocks_.is_open(to.block)) return open_blocks_.copy_rows(from, to, rows);
  storage_.copy_rows(from, to, rows);
}

// Who runs out of memory in these two goes on without: what is not kept can be used all the same.
void BlockPool::keep_some_resident(std::span<const std::int32_t> blocks) noexcept try {
  if (!home_.is_here()) return;
  const std::vector<std::int64_t> slabs = residency_->slabs(blocks);
  residency_->keep_and_bring_in(slabs);
  residency_->settle(slabs);
  tell_of(blocks);
} catch (const std::bad_alloc&) {
  return;
}

void BlockPool::settle_some(std::span<const std::int32_t> blocks) noexcept try {
  if (home_.is_here()) residency_->settle(residency_->slabs(blocks));
} catch (const std::bad_alloc&) {
  return;
}

void BlockPool::tell_of_some(std::span<const std::int32_t> blocks) const noexcept {
  if (home_.is_here()) residency_->tell_of(blocks);
}

void BlockPool::read_in_order(std::int64_t layer, std::span<const std::int32_t> blocks,
                              const std::function<void(std::size_t, std::size_t)>& visit) const {
  if (!residency_->is_limited()) return visit(0, blocks.size());
  BlockStream stream(*residency_, layer);
  const auto step = static_cast<std::size_t>(stream.most_blocks());
  std::vector<std::vector<std::int32_t>> stretches;
  for (std::size_t first = 0; first < blocks.size(); first += step) {
    const auto part = blocks.subspan(first, std::min(step, blocks.size() - first));
    stretches.emplace_back(part.begin(), part.end());
  }
  if (!stream.start(stretches)) return visit(0, blocks.size());
  for (std::size_t i = 0; i < stretches.size(); ++i) {
    stream.wait_for(i);
    visit(i * step, i * step + stretches[i].size());
    stream.done_with(i);
  }
}

void BlockPool::use_in_order(std::span<const Step> steps,
                             const std::function<void(std::size_t)>& use) const {
  std::vector<std::vector<std::int64_t>> slabs;
  for (const Step& step : steps) slabs.push_back(residency_->slabs(step.layer, step.blocks));
  std::optional<BlockStream> stream;
  if (!stream.emplace(*residency_, 0).start_once(slabs)) stream.reset();
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (stream) stream->wait_for(i);
    use(i);
    if (stream) stream->done_with(i);
  }
}

std::vector<bool> BlockPool::resident_blocks() const {
  home_.require();
  std::vector<bool> resident = residency_->whole_blocks();
  const std::lock_guard lock(mutex_);
  for (std::int32_t block = 0; block < geometry().num_blocks; ++block) {
    if (is_open_alone(block)) resident[block] = true;
  }
  return resident;
}

std::vector<bool> BlockPool::cached_blocks() const {
  std::vector<bool> cached(static_cast<std::size_t>(geometry().num_blocks));
  const std::lock_guard lock(mutex_);
  for (std::int32_t block = 0; block < geometry().num_blocks; ++block) {
    cached[block] = ledger_.references(block) > 0 && ledger_.is_idle(block);
  }
  return cached;
}

std::string BlockPool::Books::most_blocks() const {
  const std::int64_t cached = ledger_.num_cached(), pinned = ledger_.num_pinned();
  return concat("the ", ledger_.num_free(), " free",
                cached > 0 ? concat(" and ", cached, " cached") : "",
                pinned > 0 ? concat(", beside ", pinned, " pinned") : "");
}

void BlockPool::Books::require_free(std::int64_t blocks, const Asked& asked) const {
  if (blocks <= ledger_.num_free()) return;
  if (can_free(blocks)) return ledger_.reclaim(blocks);
  raise<OutOfBlocks>(place(asked.function, asked.argument), "got ", asked.text(), ", which takes ",
                     counted(blocks, "block"), ", expected at most ", most_blocks());
}

std::vector<std::int32_t> BlockPool::allocate(std::int64_t n) {
  constexpr std::string_view function = "BlockPool.allocate";
  if (n < 0) raise<ValueError>(place(function, "n"), "got ", n, ", expected >= 0");
  if (n > geometry().num_blocks) Books(*this).require_free(n, {function, "n", n});
  storage_.memory().require_written(function);
  const Delivery delivery(*this);
  std::vector<std::int32_t> blocks(n);  // outside the lock, and before anything is taken
  {
    const Books books(*this);
    books.require_free(n, {function, "n", n});
    books->give_to_user(blocks);
  }
  keep_resident(blocks);
  try {
    confirm_uninterrupted();
  } catch (...) {
    Books(*this)->release(blocks);
    throw;
  }
  return blocks;
}

// A copy: the caller's array may change while it is being read, and must be read once.
std::vector<std::int32_t> BlockPool::checked_ids(const IndexView& ids,
                                                 std::string_view function) const {
  assert(ids.ndim == 1);
  std::vector<std::int32_t> checked(ids.shape[0]);
  for (std::int64_t i = 0; i < ids.shape[0]; ++i) {
    const std::int64_t id = ids.at(i);
    if (id < 0 || id >= geometry().num_blocks) {
      raise<IndexError>(place(function, "ids"), "got block ", id, " at index ", i,
                        ", expected 0 to ", geometry().num_blocks - 1);
    }
    checked[i] = static_cast<std::int32_t>(id);
  }
  return checked;
}

void BlockPool::retain(const IndexView& ids) {
  const auto checked = checked_ids(ids, "BlockPool.retain");
  const Delivery delivery(*this);
  Books(*this)->retain(checked);
}

void BlockPool::release(const IndexView& ids) {
  const auto checked = checked_ids(ids, "BlockPool.release");
  const Delivery delivery(*this);
  Books(*this)->release(checked);
  open_room_->settle();
}

std::vector<std::int32_t> BlockPool::ref_counts() const {
  std::vector<std::int32_t> counts(geometry().num_blocks);
  const std::lock_guard lock(mutex_);
  for (std::int32_t block = 0; block < geometry().num_blocks; ++block) {
    counts[block] = ledger_.references(block);
  }
  return counts;
}

std::int32_t BlockPool::ref_count(std::int64_t id) const {
  if (id < 0 || id >= geometry().num_blocks) {
    raise<IndexError>("BlockPool.ref_count: id", "got ", id, ", expected 0 to ",
                      geometry().num_blocks - 1);
  }
  const std::lock_guard lock(mutex_);
  return ledger_.references(static_cast<std::int32_t>(id));
}

std::int64_t BlockPool::num_free() const {
  const std::lock_guard lock(mutex_);
  return ledger_.num_free();
}

std::int64_t BlockPool::num_used() const {
  const std::lock_guard lock(mutex_);
  return ledger_.num_used();
}

PoolStats BlockPool::stats() const {
  const std::int64_t resident_bytes = residency_->kept_bytes();
  std::vector<bool> resident;  // empty: all
  if (residency_->is_limited()) resident = resident_blocks();
  const std::lock_guard lock(mutex_);
  PoolStats stats = ledger_.stats();
  stats.resident_bytes = resident_bytes;
  stats.bytes_per_token = static_cast<double>(storage_.nbytes()) /
                          static_cast<double>(geometry().num_blocks * geometry().block_size);
  if (open_room_->is_limited()) {
    stats.resident_bytes += ledger_.open_slots().num_in_memory() * open_blocks_.slot_bytes();
  }
  for (std::size_t block = 0; block < resident.size(); ++block) {
    stats.offloaded += !resident[block] && ledger_.references(static_cast<std::int32_t>(block)) > 0;
  }
  return stats;
}

std::shared_ptr<BlockListener> BlockPool::set_listener(std::shared_ptr<BlockListener> listener) {
  const std::lock_guard lock(mutex_);
  is_listened_to_ = listener != nullptr;
  ledger_.write_events_to(listener != nullptr ? &events_ : nullptr);
  if (listener == nullptr) events_.clear();
  listener_.swap(listener);
  return listener;  // whoever goes does so outside the lock
}

void BlockPool::join(const Books&, const std::shared_ptr<EventTeller>& teller) {
  auto& tellers = guarded_->tellers;
  if (std::find(tellers.begin(), tellers.end(), teller) == tellers.end()) {
    tellers.push_back(teller);
  }
  has_tellers_ = true;
}

void BlockPool::leave(const Books&, const EventTeller& teller) noexcept {
  std::erase_if(guarded_->tellers, [&](const auto& one) { return one.get() == &teller; });
  has_tellers_ = !guarded_->tellers.empty();
}

// A listener may fork: the child, which has the parent's events, tells nobody of them again.
void BlockPool::deliver_events() noexcept {
  for (bool delivers = false; home_.is_here(); delivers = true) {
    std::vector<BlockEvent> events;
    std::shared_ptr<BlockListener> listener;
    std::shared_ptr<EventTeller> teller;
    {
      const std::lock_guard lock(mutex_);
      if (is_delivering_ && !delivers) return;
      for (const auto& one : guarded_->tellers) {
        if (teller == nullptr && one->collect()) teller = one;
      }
      is_delivering_ = !events_.empty() || teller != nullptr;
      if (!is_delivering_) return;
      events_.swap(events);
      listener = listener_;
    }
    for (const BlockEvent& event : events) {
      if (home_.is_here()) listener->hear(event);
    }
    if (teller != nullptr) teller->tell(home_);
  }
}

void BlockPool::check() const {
  residency_->check();
  open_room_->check();
  const std::lock_guard lock(mutex_);
  ledger_.check();
}

}  // namespace quire
