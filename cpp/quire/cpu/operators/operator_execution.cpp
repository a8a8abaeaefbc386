#include "quire/cpu/operators/operator_execution.h"

#include "quire/cpu/execution.h"

namespace quire {

OperatorExecution default_operator_execution(int num_threads, std::string_view function) {
  const Execution how = default_execution(num_threads, function);
  return {how.kernels->operators, how.num_threads};
}

}  // namespace quire
