#include "quire/base/interruption.h"

#include "quire/base/process.h"

namespace quire {
namespace {

struct Thread {
  Interruptible* call = nullptr;
  bool asks = false;  // as the call is its own
  bool is_looking = false;
};

thread_local Thread thread;

}  // namespace

Interruptible::Interruptible(StopIsAskedFor stop_is_asked_for)
    : stop_is_asked_for_(stop_is_asked_for), outer_(thread.call), outer_asks_(thread.asks) {
  thread.call = this;
  thread.asks = true;
}

Interruptible::~Interruptible() {
  thread.call = outer_;
  thread.asks = outer_asks_;
}

// The first turn looks at no clock: calls of one turn, as small ones are, have nothing to ask.
bool Interruptible::look(bool has_waited) {
  if (!has_waited) {
    if (!has_begun_) {
      has_begun_ = true;
      return false;
    }
    const auto now = std::chrono::steady_clock::now();
    if (next_look_ == std::chrono::steady_clock::time_point{}) next_look_ = now + kLookInterval;
    if (now < next_look_) return false;
  }
  // Whoever is asked may call, and may fork: the child has no threads to go on with.
  const HomeProcess home;
  bool stops = false;
  {
    const Uninterrupted meanwhile;
    const bool was_looking = thread.is_looking;  // where whoever was asked has called
    thread.is_looking = true;
    stops = stop_is_asked_for_() || !home.is_here();
    thread.is_looking = was_looking;
  }
  next_look_ = std::chrono::steady_clock::now() + kLookInterval;
  if (stops) is_stopped_.store(true, std::memory_order_relaxed);
  return stops;
}

bool is_interrupted(bool has_waited) {
  Interruptible* const call = thread.call;
  if (call == nullptr) return false;
  return call->is_stopped_.load(std::memory_order_relaxed) ||
         (thread.asks && call->look(has_waited));
}

void confirm_uninterrupted() {
  const Interruptible* const call = thread.call;
  if (call == nullptr || !call->is_stopped_.load(std::memory_order_relaxed)) return;
  throw Interrupted("interrupted before it was done");
}

void check_interruption(bool has_waited) {
  if (is_interrupted(has_waited)) confirm_uninterrupted();
}

bool can_be_interrupted() { return thread.asks; }

bool is_looking() { return thread.is_looking; }

Interruptible* WorksForCall::current() { return thread.call; }

WorksForCall::WorksForCall(Interruptible* call) : former_(thread.call), asked_(thread.asks) {
  thread.call = call;
  thread.asks = false;
}

WorksForCall::~WorksForCall() {
  thread.call = former_;
  thread.asks = asked_;
}

}  // namespace quire
