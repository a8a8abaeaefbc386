#include "quire/kv/residency/residency.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <tuple>
#include <utility>

#include "quire/base/check.h"
#include "quire/kv/ledger/block_ledger.h"

namespace quire {
namespace {

// Of resident_bytes, for reading ahead: at most a quarter, and no more than keeps a disk busy.
constexpr std::int64_t kWindowShare = 4;
constexpr std::int64_t kMostWindowBytes = std::int64_t{64} << 20;

// Slabs that go at once when one must, so that their choice costs little: of the kept.
constexpr std::int64_t kBatchShare = 8;

std::int64_t ceil_div(std::int64_t n, std::int64_t d) { return n / d + (n % d != 0); }

std::int64_t least_window(const KvGeometry& geometry) {
  return Residency::kStretches * ((Residency::kLeastStretch - 1) / geometry.block_size + 2);
}

}  // namespace

std::int64_t Residency::least_bytes(const KvStorage& storage) {
  const KvGeometry& geometry = storage.geometry();
  return (least_window(geometry) + 2 * geometry.num_layers) * storage.block_bytes();
}

Residency::Residency(const KvStorage& storage)
    : storage_(storage), is_limited_(false), window_(kWindowOfAll) {}

Residency::Residency(const KvStorage& storage, std::int64_t resident_bytes, AskNeeds ask_needs,
                     Tell tell, std::int64_t least_aside)
    : storage_(storage),
      is_limited_(true),
      ask_needs_(std::move(ask_needs)),
      tell_(std::move(tell)) {
  const std::int64_t aside_slabs = ceil_div(least_aside, storage.block_bytes());
  const std::int64_t least = least_bytes(storage) + aside_slabs * storage.block_bytes();
  if (resident_bytes < least) {
    raise<ValueError>("BlockPool: resident_bytes", "got ", resident_bytes, ", expected at least ",
                      least, " for blocks of this shape");
  }
  const std::int64_t num_slabs = storage.nbytes() / storage.block_bytes();
  if (num_slabs > std::numeric_limits<std::int32_t>::max()) {
    raise<ValueError>("BlockPool: num_blocks", "got ", counted(geometry().num_blocks, "block"),
                      " in ", counted(geometry().num_layers, "layer"),
                      ", expected at most 2147483647 together with resident_bytes");
  }
  const std::int64_t slabs = resident_bytes / storage.block_bytes();
  const std::int64_t others = aside_slabs + 2 * geometry().num_layers;
  window_ = std::max(
      least_window(geometry()),
      std::min({slabs / kWindowShare, kMostWindowBytes / storage.block_bytes(), slabs - others}));
  capacity_ = keepable_ = slabs - window_;
  place_.assign(num_slabs, kNotKept);
  used_.assign(num_slabs, 0);
  kept_layers_.assign(geometry().num_blocks, 0);
  kept_.reserve(std::min(capacity_, num_slabs));
}

std::int64_t Residency::capacity() const {
  const std::lock_guard lock(mutex_);
  return capacity_;
}

void Residency::set_aside(std::int64_t bytes) {
  std::vector<std::int64_t> gone;
  {
    const std::lock_guard lock(mutex_);
    const std::int64_t capacity = keepable_ - ceil_div(bytes, storage_.block_bytes());
    const std::int64_t wanted = static_cast<std::int64_t>(kept_.size()) - capacity;
    ++clock_;  // none is being used by who asks
    if (wanted > 0) gone = make_room(wanted, Room::of_others);
    capacity_ = capacity;
  }
  std::sort(gone.begin(), gone.end());
  give_back(gone);
}

std::int64_t Residency::kept_bytes() const {
  if (!is_limited_) return storage_.nbytes();
  const std::lock_guard lock(mutex_);
  return static_cast<std::int64_t>(kept_.size()) * storage_.block_bytes();
}

std::int64_t Residency::evictions() const {
  const std::lock_guard lock(mutex_);
  return evictions_;
}

std::vector<bool> Residency::whole_blocks() const {
  if (!is_limited_) return std::vector<bool>(static_cast<std::size_t>(geometry().num_blocks), true);
  std::vector<bool> whole(kept_layers_.size());
  const std::lock_guard lock(mutex_);
  for (std::size_t block = 0; block < whole.size(); ++block) {
    whole[block] = is_whole(static_cast<std::int64_t>(block));
  }
  return whole;
}

std::vector<std::int64_t> Residency::slabs(std::int64_t layer,
                                           std::span<const std::int32_t> blocks) const {
  std::vector<std::int64_t> slabs;
  if (!is_limited_) return slabs;
  slabs.reserve(blocks.size());
  for (const std::int32_t block : blocks) {
    if (block >= 0 && block < geometry().num_blocks) slabs.push_back(slab(layer, block));
  }
  std::sort(slabs.begin(), slabs.end());
  slabs.erase(std::unique(slabs.begin(), slabs.end()), slabs.end());
  return slabs;
}

std::vector<std::int64_t> Residency::slabs(std::span<const std::int32_t> blocks) const {
  std::vector<std::int64_t> all;
  if (!is_limited_) return all;
  for (std::int64_t layer = 0; layer < geometry().num_layers; ++layer) {
    const std::vector<std::int64_t> one = slabs(layer, blocks);
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

std::int64_t Residency::num_blocks(std::vector<std::int64_t> slabs) const {
  for (std::int64_t& slab : slabs) slab %= geometry().num_blocks;
  std::sort(slabs.begin(), slabs.end());
  return std::unique(slabs.begin(), slabs.end()) - slabs.begin();
}

void Residency::add(std::int64_t slab) {
  place_[slab] = static_cast<std::int32_t>(kept_.size());
  kept_.push_back(static_cast<std::int32_t>(slab));
  const auto block = static_cast<std::int32_t>(slab % geometry().num_blocks);
  ++kept_layers_[block];
  if (is_whole(block)) tell_(block, true);
}

void Residency::remove(std::int64_t slab) {
  const std::int32_t last = kept_.back();
  kept_[place_[slab]] = last;
  place_[last] = place_[slab];
  kept_.pop_back();
  place_[slab] = kNotKept;
  const auto block = static_cast<std::int32_t>(slab % geometry().num_blocks);
  const bool was_whole = is_whole(block);
  --kept_layers_[block];
  if (was_whole) tell_(block, false);
}

void Residency::tell_of(std::span<const std::int32_t> blocks) const {
  if (!is_limited_) return;
  const std::lock_guard lock(mutex_);
  for (const std::int32_t block : blocks) {
    if (block >= 0 && block < geometry().num_blocks) tell_(block, is_whole(block));
  }
}

void Residency::keep(std::span<const std::int64_t> slabs, Room room) {
  if (slabs.empty()) return;
  std::vector<std::int64_t> gone;
  {
    const std::lock_guard lock(mutex_);
    ++clock_;
    std::int64_t wanted = static_cast<std::int64_t>(kept_.size()) - capacity_;
    for (const std::int64_t slab : slabs) {
      if (is_kept(slab)) {
        used_[slab] = clock_;
      } else {
        ++wanted;
      }
    }
    if (wanted > 0) gone = make_room(wanted, room);
    for (const std::int64_t slab : slabs) {
      if (is_kept(slab) || static_cast<std::int64_t>(kept_.size()) == capacity_) continue;
      add(slab);
      used_[slab] = clock_;
    }
  }
  std::sort(gone.begin(), gone.end());
  give_back(gone);
}

void Residency::keep_and_bring_in(std::span<const std::int64_t> slabs) {
  std::vector<std::int64_t> new_ones = missing(slabs);
  keep(slabs);
  const std::vector<std::int64_t> others = missing(slabs);
  std::erase_if(new_ones, [&](std::int64_t slab) {
    return std::binary_search(others.begin(), others.end(), slab);
  });
  ask_for(new_ones);
  bring_in(new_ones);
}

// At least `wanted` of those that are not being used now, as far as there are.
std::vector<std::int64_t> Residency::make_room(std::int64_t wanted, Room room) {
  std::vector<Need> needs(static_cast<std::size_t>(geometry().num_blocks));
  ask_needs_(needs);
  const auto need = [&](std::int64_t slab) { return needs[slab % geometry().num_blocks]; };
  std::vector<std::int64_t> gone;
  for (const std::int32_t slab : kept_) {
    if (used_[slab] == clock_) continue;
    if (room == Room::of_free_blocks && need(slab) != Need::nobody) continue;
    gone.push_back(slab);
  }
  const std::int64_t batch =
      std::min(static_cast<std::int64_t>(gone.size()), std::max(wanted, capacity_ / kBatchShare));
  const auto sooner = [&](std::int64_t a, std::int64_t b) {
    return std::tuple(need(a), used_[a], a) < std::tuple(need(b), used_[b], b);
  };
  std::nth_element(gone.begin(), gone.begin() + batch, gone.end(), sooner);
  gone.resize(batch);
  for (const std::int64_t slab : gone) remove(slab);
  evictions_ += batch;
  return gone;
}

std::vector<std::int64_t> Residency::missing(std::span<const std::int64_t> slabs) const {
  std::vector<std::int64_t> missing;
  if (slabs.empty()) return missing;
  const std::lock_guard lock(mutex_);
  std::copy_if(slabs.begin(), slabs.end(), std::back_inserter(missing),
               [&](std::int64_t slab) { return !is_kept(slab); });
  return missing;
}

std::int64_t Residency::part_with(std::span<const std::int64_t> slabs) {
  std::vector<std::int64_t> gone;
  {
    const std::lock_guard lock(mutex_);
    std::copy_if(slabs.begin(), slabs.end(), std::back_inserter(gone),
                 [&](std::int64_t slab) { return is_kept(slab); });
    for (const std::int64_t slab : gone) remove(slab);
    evictions_ += static_cast<std::int64_t>(gone.size());
  }
  give_back(slabs);  // also what came back where it was touched
  return num_blocks(std::move(gone));
}

void Residency::age(std::span<const std::int64_t> slabs) {
  const std::lock_guard lock(mutex_);
  for (const std::int64_t slab : slabs) used_[slab] = 0;
}

// Neighbours together: large transfers are fewer, and faster.
std::vector<PageRange> Residency::ranges(std::span<const std::int64_t> slabs) const {
  const std::int64_t bytes = storage_.block_bytes();
  std::vector<PageRange> ranges;
  for (const std::int64_t slab : slabs) {
    if (!ranges.empty() && ranges.back().end == slab * bytes) {
      ranges.back().end += bytes;
    } else {
      ranges.push_back({slab * bytes, (slab + 1) * bytes});
    }
  }
  return ranges;
}

void Residency::give_back(std::span<const std::int64_t> slabs) {
  if (!slabs.empty()) storage_.memory().give_back(ranges(slabs));
}

void Residency::ask_for(std::span<const std::int64_t> slabs) const {
  if (!slabs.empty()) storage_.memory().ask_for(ranges(slabs));
}

void Residency::bring_in(std::span<const std::int64_t> slabs) const {
  if (!slabs.empty()) storage_.memory().bring_in(ranges(slabs));
}

std::unique_lock<CallMutex> Residency::take_window() {
  const std::lock_guard turn(turn_mutex_);
  std::unique_lock window(window_mutex_);
  std::unique_lock lock(finisher_->mutex);
  wait_interruptibly(finisher_->changed, lock, [this] { return !finisher_->is_working; });
  return window;
}

void Residency::finish_later(std::unique_ptr<Unfinished> work) noexcept {
  Finisher& finisher = *finisher_;
  if (finisher.thread.joinable()) finisher.thread.join();  // which has nothing to do any more
  const auto finish = [unfinished = work.release()] {
    unfinished->finish();
    delete unfinished;
  };
  finisher.is_working = true;  // and nobody else looks at it, without the window
  try {
    finisher.thread = std::thread([&finisher, finish] {
      finish();
      const std::lock_guard lock(finisher.mutex);
      finisher.is_working = false;
      finisher.changed.notify_all();
    });
  } catch (const std::exception&) {
    finisher.is_working = false;
    finish();
  }
}

Residency::~Residency() {
  if (finisher_.get_deleter().home.is_here() && finisher_->thread.joinable()) {
    finisher_->thread.join();
  }
}

void Residency::check() const {
  const std::lock_guard lock(mutex_);
  const auto expect = [](bool holds, const char* what, std::int64_t got) {
    if (!holds) raise<InvariantError>(place("BlockPool.check", what), "got ", got);
  };
  const auto num_kept = static_cast<std::int64_t>(kept_.size());
  expect(num_kept <= capacity_, "slabs kept beyond the capacity", num_kept);
  std::vector<std::int32_t> layers(kept_layers_.size(), 0);
  std::int64_t places = 0;
  for (std::size_t slab = 0; slab < place_.size(); ++slab) {
    if (place_[slab] == kNotKept) continue;
    ++places;
    const bool found = place_[slab] >= 0 && place_[slab] < num_kept &&
                       kept_[place_[slab]] == static_cast<std::int32_t>(slab);
    expect(found, "place of a kept slab", place_[slab]);
    ++layers[slab % layers.size()];
  }
  expect(places == num_kept, "slabs with a place", places);
  expect(layers == kept_layers_, "layers kept of each block", num_kept);
}

}  // namespace quire
