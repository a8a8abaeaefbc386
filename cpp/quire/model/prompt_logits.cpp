#include "quire/model/prompt_logits.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "quire/base/check.h"
#include "quire/base/interruption.h"
#include "quire/kv/table/block_table.h"
#include "quire/paged/make_pool.h"

namespace quire {

void prompt_logits(const LoadedModel& model, std::span<const std::int64_t> token_ids,
                   std::int64_t max_batch_tokens, const ArrayView& logits, const Execution& how,
                   std::string_view function) {
  const auto count = std::ssize(token_ids);
  if (count < 1 || count > model.max_positions()) {
    raise<ValueError>(place(function, "token_ids"), "got ", counted(count, "token"),
                      ", expected 1 to ", model.max_positions());
  }
  if (max_batch_tokens < 1) {
    raise<ValueError>(place(function, "max_batch_tokens"), "got ", max_batch_tokens,
                      ", expected >= 1");
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t id = token_ids[static_cast<std::size_t>(i)];
    if (id >= 0 && id < model.vocab_size()) continue;
    raise<IndexError>(place(function, "token_ids"), "got ", id, " at ", i, ", expected 0 to ",
                      model.vocab_size() - 1);
  }
  KvGeometry geometry = model.kv_shape().geometry();
  geometry.num_blocks = (count + geometry.block_size - 1) / geometry.block_size;
  geometry.dtype = model.rows();
  const auto table = std::make_shared<BlockTable>(make_pool(geometry, {}, how));
  const std::shared_ptr<RecurrentStates> states = model.make_states(1);
  constexpr std::int64_t kSlot[] = {0};
  for (std::int64_t begin = 0; begin < count; begin += max_batch_tokens) {
    check_interruption();
    const std::int64_t tokens[] = {std::min(max_batch_tokens, count - begin)};
    Step step({table}, tokens);
    const Step::TakeBack guard(step);
    std::vector<std::int64_t> rows(static_cast<std::size_t>(tokens[0]));
    std::iota(rows.begin(), rows.end(), 0);
    ArrayView some = logits;
    some.data = logits.at(begin);
    some.shape[0] = tokens[0];
    model.forward({.step = step,
                   .token_ids = token_ids.subspan(static_cast<std::size_t>(begin), rows.size()),
                   .states = states.get(),
                   .state_slots = kSlot,
                   .logit_rows = rows,
                   .logits = some},
                  how);
  }
}

}  // namespace quire
