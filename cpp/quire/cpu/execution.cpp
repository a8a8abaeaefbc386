#include "quire/cpu/execution.h"

#include "quire/base/check.h"
#include "quire/base/thread_pool.h"

namespace quire {

Execution default_execution(int num_threads, std::string_view function) {
  if (num_threads < 0) {
    raise<ValueError>(place(function, "num_threads"), "got ", num_threads, ", expected >= 1");
  }
  return {&selected_kernels(), num_threads == 0 ? default_num_threads() : num_threads};
}

}  // namespace quire
