// Threads that wait for work, shared by every operation of the process.
#pragma once

#include <functional>

namespace quire {

// QUIRE_NUM_THREADS, else OMP_NUM_THREADS, else the cores this process may run on. Read at each
// call, 1024 at most. Throws ValueError where QUIRE_NUM_THREADS is not a whole number >= 1.
int default_num_threads();

// Calls body(worker) once for each worker in [0, num_workers), at the same time where threads
// allow, and returns when all have returned. The caller is worker 0. Safe to call from many threads
// at once and inside a body (one caller has the threads, the others run their bodies one after the
// other), and in a forked child. The first exception of a body is thrown again here.
void run_on_threads(int num_workers, const std::function<void(int)>& body);

}  // namespace quire
