#include "quire/kv/block_stream.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <system_error>
#include <utility>

namespace quire {
namespace {

using Slabs = std::vector<std::int64_t>;

constexpr std::size_t kStretches = Residency::kStretches;
constexpr std::size_t kAhead = kStretches - 2;  // asked for beside the one that is waited for

Slabs without(const Slabs& slabs, const Slabs& others) {
  Slabs rest;
  std::set_difference(slabs.begin(), slabs.end(), others.begin(), others.end(),
                      std::back_inserter(rest));
  return rest;
}

}  // namespace

bool BlockStream::start(const std::vector<std::vector<std::int32_t>>& stretches) {
  std::vector<Slabs> slabs;
  for (const auto& blocks : stretches) slabs.push_back(residency_.slabs(layer_, blocks));
  return start(std::move(slabs), true);
}

bool BlockStream::start_once(std::vector<Slabs> stretches) {
  return start(std::move(stretches), false);
}

// `moves_in`: where all of it fits.
bool BlockStream::start(std::vector<Slabs> slabs, bool moves_in) {
  for (const Slabs& some : slabs) all_.insert(all_.end(), some.begin(), some.end());
  std::sort(all_.begin(), all_.end());
  all_.erase(std::unique(all_.begin(), all_.end()), all_.end());

  evictions_ = residency_.evictions();
  if (residency_.missing(all_).empty()) {
    residency_.keep(all_);
    return false;
  }
  window_ = residency_.take_window();
  evictions_ = residency_.evictions();
  const Slabs missing = residency_.missing(all_);
  const auto num_slabs = static_cast<std::int64_t>(all_.size());
  const bool fits =
      moves_in && num_slabs <= residency_.capacity() / residency_.geometry().num_layers;
  residency_.keep(all_, fits ? Residency::Room::of_others : Residency::Room::of_free_blocks);

  // Not read again: what a stretch before still has. Not left: what one needs that is in memory, or
  // being read, by then.
  const std::size_t count = slabs.size();
  const Slabs there = without(all_, missing);
  for (std::size_t i = 0; i < count; ++i) {
    Slabs read = without(slabs[i], there);
    for (std::size_t j = i - std::min(i, kStretches); j < i; ++j) read = without(read, slabs[j]);
    to_read_.push_back(std::move(read));
    Slabs leave = slabs[i];
    for (std::size_t j = i + 1; j < std::min(i + 1 + kStretches, count); ++j) {
      leave = without(leave, slabs[j]);
    }
    to_leave_.push_back(std::move(leave));
  }
  try {
    reader_ = std::thread([this] { read_ahead(); });
  } catch (const std::system_error&) {
    reader_ = std::thread();  // wait_for reads
  }
  return true;
}

void BlockStream::begin(std::size_t stretch) {
  num_begun_ = stretch + 1;
  if (stretch >= kStretches) {
    residency_.settle(to_leave_[stretch - kStretches]);
    num_left_ = stretch - kStretches + 1;
  }
  residency_.ask_for(to_read_[stretch]);
}

// Who runs out of memory stops reading ahead: the rest is read where it is touched.
void BlockStream::read_ahead() noexcept try {
  const std::size_t count = to_read_.size();
  for (std::size_t i = 0; i < count + kAhead; ++i) {
    if (i < count) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stops_ || num_done_ + kStretches > i; });
        if (stops_) return;
      }
      begin(i);
    }
    if (i < kAhead) continue;
    residency_.bring_in(to_read_[i - kAhead]);
    const std::lock_guard lock(mutex_);
    num_read_ = i - kAhead + 1;
    changed_.notify_all();
  }
} catch (const std::bad_alloc&) {
  const std::lock_guard lock(mutex_);
  num_begun_ = num_read_ = to_read_.size();
  changed_.notify_all();
}

void BlockStream::wait_for(std::size_t stretch) {
  if (!reader_.joinable()) {
    begin(stretch);
    residency_.bring_in(to_read_[stretch]);
    num_read_ = stretch + 1;
    return;
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return num_read_ > stretch; });
}

void BlockStream::done_with(std::size_t stretch) {
  const std::lock_guard lock(mutex_);
  num_done_ = stretch + 1;
  changed_.notify_all();
}

BlockStream::~BlockStream() {
  if (reader_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      stops_ = true;
      changed_.notify_all();
    }
    reader_.join();
  }
  try {
    leave();
  } catch (const std::bad_alloc&) {
    return;  // more stays in memory than should
  }
}

void BlockStream::leave() {
  // What is still on its way cannot be given back.
  for (std::size_t i = num_read_; i < num_begun_; ++i) {
    residency_.bring_in(to_read_[i]);
  }
  // What was read and not left stands in these lists, the last of them for what is shared.
  for (std::size_t i = num_left_; i < std::min(num_begun_ + kStretches, to_leave_.size()); ++i) {
    residency_.settle(to_leave_[i]);
  }
  // What had to go while it was used has come back where it was touched.
  if (residency_.evictions() != evictions_) residency_.settle(all_);
}

}  // namespace quire
