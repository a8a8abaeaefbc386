// Threads of a test.
#pragma once

#include <thread>
#include <vector>

namespace quire::testing {

// body(0) to body(count - 1), each in a thread of its own; waits for all.
template <class Body>
void run_threads(int count, Body body) {
  std::vector<std::thread> threads;
  for (int worker = 0; worker < count; ++worker) threads.emplace_back(body, worker);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace quire::testing
