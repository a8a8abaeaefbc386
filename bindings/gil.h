// Python's lock, let go of and taken back, also by threads that Python has left behind.
//
// Where the interpreter ends while a daemon thread is in a call, the thread must not come back into
// it. Python up to 3.13 has it leave by pthread_exit from where it asks for the lock, and the first
// destructor on the way out would abort the process; later ones stop it there. Here it stops with
// every Python, until the process is gone: by then it holds no lock of ours, as a call lets go of
// those before it comes back.
#pragma once

#include <pybind11/pybind11.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "quire/base/interruption.h"

namespace quire::python {

[[noreturn]] inline void stop_thread() {
  for (;;) pause();
}

// call(), of functions of Python's that ask for the lock, as running Python's code does.
template <class Call>
auto call_or_stop(Call call) noexcept {
  try {
    if (Py_IsInitialized()) return call();
  } catch (...) {  // pthread_exit unwinds as an exception does, which must not be left once caught
    stop_thread();
  }
  stop_thread();
}

// The lock is held while this lives, whether or not this thread had it, or is one of Python's.
class WithGil {
 public:
  WithGil() : state_(call_or_stop([] { return PyGILState_Ensure(); })) {}
  ~WithGil() { PyGILState_Release(state_); }
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;

 private:
  const PyGILState_STATE state_;
};

// Runs the handlers of signals that have come, as Python does between calls, on its main thread
// alone. Whether one has raised, as that of Ctrl-C does: its exception is this thread's until
// Interrupted, which ends the call, arrives in Python and finds it there (errors.cpp).
inline bool handler_has_raised() {
  if (syscall(SYS_gettid) != getpid()) return false;
  const WithGil locked;
  return call_or_stop([] { return PyErr_CheckSignals() != 0; });
}

// The lock is not held while this lives, and signals are handled all the same.
class WithoutGil {
 public:
  WithoutGil() : interruptible_(&handler_has_raised), state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    call_or_stop([this] { PyEval_RestoreThread(state_); });
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  const Interruptible interruptible_;
  PyThreadState* const state_;
};

}  // namespace quire::python
