#include "quire/cpu/operators/operator_execution.h"

#include <algorithm>

#include "quire/cpu/execution.h"
#include "quire/cpu/operators/operator_list.h"

namespace quire {

OperatorExecution default_operator_execution(int num_threads, std::string_view function) {
  const Execution how = default_execution(num_threads, function);
  const auto list = operator_list();
  std::string_view wanted = how.kernels->instruction_set;
  if (wanted == "avx512bf16") wanted = "avx512";
  const auto found = std::find_if(list.begin(), list.end(), [&](const OperatorChoice& choice) {
    return wanted.empty() ? choice.runs_here() : choice.kernels->name == wanted;
  });
  // all that can be named have their kernels here
  return {found != list.end() ? found->kernels : list.back().kernels, how.num_threads};
}

}  // namespace quire
