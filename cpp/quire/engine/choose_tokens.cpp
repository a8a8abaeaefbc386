#include "quire/engine/choose_tokens.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quire/base/check.h"
#include "quire/base/thread_pool.h"
#include "quire/cpu/sampling/sample_launch.h"

namespace quire {
namespace {

using Ids = std::span<const std::int64_t>;

// Words whose log probabilities pay for a thread that is awake: some 25 us.
constexpr std::int64_t kWordsOfOne = 1 << 13;

bool has_penalties(const SampleOptions& options) {
  return options.repetition_penalty != 1.0 || options.presence_penalty != 0.0 ||
         options.frequency_penalty != 0.0;
}

// What penalties look at: a row for each request, padded with -1, and for those without penalties
// nothing else.
class PenalisedIds {
 public:
  PenalisedIds(std::span<const Chooser> choosers, Ids Chooser::* ids) {
    std::size_t longest = 1;
    for (const Chooser& chooser : choosers) {
      if (has_penalties(chooser.options->choice)) {
        longest = std::max(longest, (chooser.*ids).size());
      }
    }
    ids_.assign(choosers.size() * longest, -1);
    for (std::size_t row = 0; row < choosers.size(); ++row) {
      if (!has_penalties(choosers[row].options->choice)) continue;
      std::ranges::copy(choosers[row].*ids, ids_.begin() + row * longest);
    }
    view_ = contiguous_index_view(ids_.data(),
                                  {std::ssize(choosers), static_cast<std::int64_t>(longest)});
  }
  const IndexView& view() const { return view_; }

 private:
  std::vector<std::int64_t> ids_;
  IndexView view_;
};

}  // namespace

TokenLogprobs logprobs_of(std::span<const float> logits, std::int64_t chosen, std::int64_t count) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  const double log_sum = std::log(sum);
  const auto logprob = [&](std::int64_t id) {
    return static_cast<double>(logits[static_cast<std::size_t>(id)]) - largest - log_sum;
  };
  std::vector<std::int64_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto is_likelier = [&](std::int64_t a, std::int64_t b) {
    const float first = logits[static_cast<std::size_t>(a)];
    const float second = logits[static_cast<std::size_t>(b)];
    return first != second ? first > second : a < b;
  };
  std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), is_likelier);
  TokenLogprobs result{.chosen = logprob(chosen), .top = {}};
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t id = ids[static_cast<std::size_t>(i)];
    result.top.push_back({id, logprob(id)});
  }
  return result;
}

std::vector<ChosenToken> choose_tokens(std::span<const Chooser> choosers, const ArrayView& logits,
                                       const Execution& how) {
  std::vector<SampleOptions> options;
  bool penalises = false;
  for (const Chooser& chooser : choosers) {
    const Ids& answer = chooser.answer_ids;
    options.push_back(chooser.options->choice);
    // The place of the token that is chosen: so a draw depends neither on the batch nor on how
    // often the request was preempted.
    options.back().position = std::ssize(chooser.prompt_ids) + std::ssize(answer);
    penalises = penalises || has_penalties(options.back());
  }
  std::vector<std::int64_t> ids(choosers.size());
  SampleArgs args;
  args.logits = logits;
  args.options = options;
  args.out = ids;
  std::optional<PenalisedIds> prompts, answers;
  if (penalises) {
    args.prompt_ids = prompts.emplace(choosers, &Chooser::prompt_ids).view();
    args.output_ids = answers.emplace(choosers, &Chooser::answer_ids).view();
  }
  try {
    sample(args, how, "Engine.step");
  } catch (const ValueError& error) {
    if (choosers.size() == 1) {
      raise<ValueError>(concat("Engine.step: request ", choosers[0].request), error.what());
    }
    // Which one it is: the others can go on once that is cancelled.
    for (std::size_t row = 0; row < choosers.size(); ++row) {
      ArrayView alone = logits;
      alone.data = logits.at(row);
      alone.shape[0] = 1;
      choose_tokens(choosers.subspan(row, 1), alone, how);
    }
    throw;
  }

  std::vector<ChosenToken> chosen(choosers.size());
  std::vector<std::size_t> told;  // rows of which log probabilities are asked
  for (std::size_t row = 0; row < choosers.size(); ++row) {
    chosen[row].id = ids[row];
    if (choosers[row].options->logprobs > 0) told.push_back(row);
  }
  const auto num_words = static_cast<std::size_t>(logits.shape[1]);
  const std::int64_t num_told = std::ssize(told);
  const Crew crew = crew_for(num_told * logits.shape[1], kWordsOfOne, num_told, how.num_threads);
  deal(crew, num_told, [&](std::int64_t i, int) {
    const std::size_t row = told[static_cast<std::size_t>(i)];
    const std::span of_row(reinterpret_cast<const float*>(logits.at(row)), num_words);
    chosen[row].logprobs = logprobs_of(of_row, ids[row], choosers[row].options->logprobs);
  });
  return chosen;
}

}  // namespace quire
