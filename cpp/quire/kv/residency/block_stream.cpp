#include "quire/kv/residency/block_stream.h"

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
  slabs.reserve(stretches.size());
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
  start_threads();
  return true;
}

// Both or none.
void BlockStream::start_threads() {
  try {
    giver_ = std::thread([this] { give_back(); });
    reader_ = std::thread([this] { read_ahead(); });
  } catch (const std::system_error&) {
    stop();
    stops_ = false;  // wait_for reads
  }
}

void BlockStream::ask_for(std::size_t stretch) {
  num_begun_ = stretch + 1;
  residency_.ask_for(to_read_[stretch]);
}

void BlockStream::leave(std::size_t stretch) {
  residency_.settle(to_leave_[stretch]);
  const std::lock_guard lock(mutex_);
  num_left_ = stretch + 1;
  changed_.notify_all();
}

// Who runs out of memory, here and below, stops: the rest is read where it is touched, and more
// stays in memory than should.
void BlockStream::read_ahead() noexcept try {
  const std::size_t count = to_read_.size();
  for (std::size_t i = 0; i < count + kAhead; ++i) {
    if (i < count) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stops_ || num_left_ + kStretches > i; });
        if (stops_) return;
      }
      ask_for(i);
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

void BlockStream::give_back() noexcept try {
  for (std::size_t i = 0; i < to_leave_.size(); ++i) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stops_ || num_done_ > i; });
      if (stops_) return;
    }
    leave(i);
  }
} catch (const std::bad_alloc&) {
  const std::lock_guard lock(mutex_);
  num_left_ = to_leave_.size();
  changed_.notify_all();
}

void BlockStream::wait_for(std::size_t stretch) {
  if (!reader_.joinable()) {
    if (stretch >= kStretches) leave(stretch - kStretches);
    ask_for(stretch);
    residency_.bring_in(to_read_[stretch]);
    num_read_ = stretch + 1;
    return;
  }
  std::unique_lock lock(mutex_);
  wait_interruptibly(changed_, lock, [&] { return num_read_ > stretch; });
}

void BlockStream::done_with(std::size_t stretch) {
  const std::lock_guard lock(mutex_);
  num_done_ = stretch + 1;
  changed_.notify_all();
}

void BlockStream::stop() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
    changed_.notify_all();
  }
  for (std::thread* thread : {&reader_, &giver_}) {
    if (thread->joinable()) thread->join();
  }
}

BlockStream::~BlockStream() {
  if (!threads_.get_deleter().home.is_here()) return;
  const Uninterrupted whole;
  stop();
  try {
    leave_rest();
  } catch (const std::bad_alloc&) {
    return;  // more stays in memory than should
  }
}

void BlockStream::leave_rest() {
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
