// A prompt, and the answer to it as far as it has come.
//
// Whoever submitted a request reads it, and may end it, from any thread; only the engine adds
// tokens. The first reason to finish is the last word: what comes after it changes nothing.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quire/ops/sampling/sample.h"

namespace quire {

// How an answer is chosen, and when it ends.
struct RequestOptions {
  std::int64_t max_tokens = 128;  // >= 1, of the answer
  // How each token is chosen; the likeliest each time, unless something else is asked for. The
  // position is the engine's affair: it is that of the token.
  SampleOptions choice{.temperature = 0.0};
  // What ends the answer, beside the tokens of the model, unless those are to be ignored. (Without
  // an initialiser GCC 12 warns where others are named and this is not.)
  std::vector<std::int64_t> stop_token_ids = {};  // NOLINT(readability-redundant-member-init)
  bool ignore_eos = false;
  std::int64_t logprobs = 0;  // so many of the likeliest tokens are told, and the chosen one
  // Shares cached prefixes with requests of the same one alone.
  std::string cache_space = {};  // NOLINT(readability-redundant-member-init)
};

enum class FinishReason : std::uint8_t { none, stop, length, cancelled };
// "stop", "length", "cancelled"; "" for none.
std::string_view name_of(FinishReason reason);

// Natural logarithms of probabilities, of the logits as the model gave them: before temperature,
// penalties and filters.
struct TokenLogprobs {
  struct Likely {
    std::int64_t id;
    double logprob;
  };
  double chosen = 0;
  std::vector<Likely> top;  // the likeliest first, of equals the lowest id
};

class Request {
 public:
  // `id` counts requests of an engine from 0, in the order in which they came.
  Request(std::int64_t id, std::vector<std::int64_t> prompt_ids, RequestOptions options);
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  std::int64_t id() const { return id_; }
  std::int64_t num_prompt_tokens() const { return num_prompt_; }
  const RequestOptions& options() const { return options_; }

  // Copies: the tokens of the prompt, and those of the answer so far, from the one with index
  // `first` on, if there are so many. Throws ValueError for one below 0.
  std::vector<std::int64_t> prompt_ids() const;
  std::vector<std::int64_t> token_ids(std::int64_t first = 0) const;
  std::int64_t num_generated() const;
  // Of each token of the answer; empty where options().logprobs is 0.
  std::vector<TokenLogprobs> logprobs() const;
  // Tokens of the prompt that were found in the prefix cache when the request first ran.
  std::int64_t num_cached_tokens() const;
  FinishReason finish_reason() const;
  bool is_finished() const { return finish_reason() != FinishReason::none; }

  // Ends the answer where it stands. Its blocks are free when the engine's next step begins, or the
  // one that runs ends. Nothing happens to a request that has finished.
  void cancel() { finish(FinishReason::cancelled); }
  // The same because the answer is complete, also where its last token was the last one allowed;
  // keeps the first num_tokens tokens of it, or all. Throws ValueError for more tokens than there
  // are, or fewer than 0.
  void stop(std::optional<std::int64_t> num_tokens = std::nullopt);

 private:
  friend class Engine;
  friend class Scheduler;
  friend class SchedulerTest;

  void finish(FinishReason reason);
  // For the engine's thread, which alone adds to them: the prompt and then the answer.
  std::span<const std::int64_t> known() const { return known_; }
  void set_num_cached_tokens(std::int64_t num_tokens);
  // Adds a token and, where that ends the answer, finishes. Does nothing and returns false where
  // the request has finished meanwhile.
  bool add(std::int64_t token, std::optional<TokenLogprobs> logprobs,
           std::span<const std::int64_t> model_stops);

  const std::int64_t id_;
  const std::int64_t num_prompt_;
  const RequestOptions options_;
  mutable std::mutex mutex_;  // guards what follows
  std::vector<std::int64_t> known_;
  std::vector<TokenLogprobs> logprobs_;
  std::int64_t num_cached_ = 0;
  std::optional<std::int64_t> num_kept_;  // of the answer's tokens, where stop() has cut it
  FinishReason reason_ = FinishReason::none;
};

// Throws ValueError under the name of `function` for an option out of its range, IndexError for a
// token that is none of vocab_size, in the prompt too.
void check_request(std::span<const std::int64_t> prompt_ids, const RequestOptions& options,
                   std::int64_t vocab_size, std::string_view function);

}  // namespace quire
