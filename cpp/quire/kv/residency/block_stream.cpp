#include "quire/kv/residency/block_stream.h"

#include <algorithm>
#include <condition_variable>
#include <iterator>
#include <new>
#include <system_error>
#include <thread>
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

// The stretches of a stream that has begun, and where they are.
class BlockStream::Work final : public Residency::Unfinished {
 public:
  explicit Work(Residency& residency) : residency_(residency) {}

  // `there` of all slabs are in memory.
  void plan(const std::vector<Slabs>& slabs, Slabs all, const Slabs& there, std::int64_t evictions);
  void start_threads();
  void wait_for(std::size_t stretch);
  void done_with(std::size_t stretch);
  // Whether all has been used: what is left to do takes no time then.
  bool is_used() const { return num_done_ == to_read_.size(); }
  void finish() noexcept override;

 private:
  void read_ahead() noexcept;
  void give_back() noexcept;
  void stop();
  void ask_for(std::size_t stretch);
  void leave(std::size_t stretch);
  void leave_rest();

  Residency& residency_;
  Slabs all_;
  std::vector<Slabs> to_read_;  // of each stretch, those that are not kept
  std::vector<Slabs> to_leave_;
  std::int64_t evictions_ = 0;  // of the pool, when this started
  std::size_t num_begun_ = 0;   // stretches that were asked for; the reader's
  // One asks for stretches and waits for them, the other gives them back: each costs about as much
  // as attention to one query does. None where the system has no threads to give.
  std::thread reader_, giver_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::size_t num_read_ = 0;
  std::size_t num_done_ = 0;  // changed by who uses the stretches, alone
  std::size_t num_left_ = 0;  // that were given back
  bool stops_ = false;
};

BlockStream::BlockStream(Residency& residency, std::int64_t layer)
    : residency_(residency), layer_(layer), work_(new Work(residency)) {}

bool BlockStream::start(const std::vector<std::vector<std::int32_t>>& stretches) {
  std::vector<Slabs> slabs;
  slabs.reserve(stretches.size());
  for (const auto& blocks : stretches) slabs.push_back(residency_.slabs(layer_, blocks));
  return start(slabs, true);
}

bool BlockStream::start_once(const std::vector<Slabs>& stretches) {
  return start(stretches, false);
}

// `moves_in`: where all of it fits.
bool BlockStream::start(const std::vector<Slabs>& slabs, bool moves_in) {
  Slabs all;
  for (const Slabs& some : slabs) all.insert(all.end(), some.begin(), some.end());
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());

  std::int64_t evictions = residency_.evictions();
  if (residency_.missing(all).empty()) {
    residency_.keep(all);
    work_->plan({}, std::move(all), {}, evictions);
    return false;
  }
  window_ = residency_.take_window();
  evictions = residency_.evictions();
  const Slabs there = without(all, residency_.missing(all));
  const auto num_slabs = static_cast<std::int64_t>(all.size());
  const bool fits =
      moves_in && num_slabs <= residency_.capacity() / residency_.geometry().num_layers;
  residency_.keep(all, fits ? Residency::Room::of_others : Residency::Room::of_free_blocks);
  work_->plan(slabs, std::move(all), there, evictions);
  work_->start_threads();
  return true;
}

void BlockStream::wait_for(std::size_t stretch) { work_->wait_for(stretch); }
void BlockStream::done_with(std::size_t stretch) { work_->done_with(stretch); }

BlockStream::~BlockStream() {
  if (!work_.get_deleter().home.is_here()) return;
  const Uninterrupted whole;
  if (work_->is_used()) {
    work_->finish();
  } else {
    residency_.finish_later(std::unique_ptr<Residency::Unfinished>(work_.release()));
  }
}

// Not read again: what a stretch before still has. Not left: what one needs that is in memory, or
// being read, by then.
void BlockStream::Work::plan(const std::vector<Slabs>& slabs, Slabs all, const Slabs& there,
                             std::int64_t evictions) {
  all_ = std::move(all);
  evictions_ = evictions;
  const std::size_t count = slabs.size();
  for (std::size_t i = 0; i < count; ++i) {
    Slabs read = without(slabs[i], there);
    for (std::size_t j = i - std::min(i, kStretches); j < i; ++j) read = without(read, slabs[j]);
    Slabs leave = slabs[i];
    for (std::size_t j = i + 1; j < std::min(i + 1 + kStretches, count); ++j) {
      leave = without(leave, slabs[j]);
    }
    to_leave_.push_back(std::move(leave));
    to_read_.push_back(std::move(read));
  }
}

// Both or none.
void BlockStream::Work::start_threads() {
  try {
    giver_ = std::thread([this] { give_back(); });
    reader_ = std::thread([this] { read_ahead(); });
  } catch (const std::system_error&) {
    stop();
    stops_ = false;  // wait_for reads
  }
}

void BlockStream::Work::ask_for(std::size_t stretch) {
  num_begun_ = stretch + 1;
  residency_.ask_for(to_read_[stretch]);
}

void BlockStream::Work::leave(std::size_t stretch) {
  residency_.settle(to_leave_[stretch]);
  const std::lock_guard lock(mutex_);
  num_left_ = stretch + 1;
  changed_.notify_all();
}

// Who runs out of memory, here and below, stops: the rest is read where it is touched, and more
// stays in memory than should.
void BlockStream::Work::read_ahead() noexcept try {
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

void BlockStream::Work::give_back() noexcept try {
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

void BlockStream::Work::wait_for(std::size_t stretch) {
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

void BlockStream::Work::done_with(std::size_t stretch) {
  const std::lock_guard lock(mutex_);
  num_done_ = stretch + 1;
  changed_.notify_all();
}

void BlockStream::Work::stop() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
    changed_.notify_all();
  }
  for (std::thread* thread : {&reader_, &giver_}) {
    if (thread->joinable()) thread->join();
  }
}

void BlockStream::Work::finish() noexcept {
  stop();
  try {
    leave_rest();
  } catch (const std::bad_alloc&) {
    return;  // more stays in memory than should
  }
}

void BlockStream::Work::leave_rest() {
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
