// How many threads an operation uses where its caller does not say.
#pragma once

namespace quire {

// QUIRE_NUM_THREADS, else OMP_NUM_THREADS, else the cores that this process may run on, and no more
// than its control groups give it the time of (cpu_quota.h); 1024 at most. Read at each call, but
// for the control groups, which are read once. Throws ValueError where QUIRE_NUM_THREADS is not a
// whole number >= 1.
int default_num_threads();

}  // namespace quire
