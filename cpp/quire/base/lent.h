// What a thread keeps between calls, so that small ones allocate nothing.
#pragma once

#include <memory>
#include <utility>

namespace quire {

// The thread's T, lent to one call. Another call that comes from inside of it, made by whoever is
// asked whether it is to end (interruption.h), has one of its own.
template <class T>
class Lent {
 public:
  Lent() : object_(std::move(kept())) {
    if (object_ == nullptr) object_ = std::make_unique<T>();
  }
  ~Lent() { kept() = std::move(object_); }
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;

  T& operator*() const { return *object_; }
  T* operator->() const { return object_.get(); }

 private:
  static std::unique_ptr<T>& kept() {
    thread_local std::unique_ptr<T> object;
    return object;
  }

  std::unique_ptr<T> object_;
};

}  // namespace quire
