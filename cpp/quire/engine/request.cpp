#include "quire/engine/request.h"

#include <algorithm>
#include <utility>

#include "quire/base/check.h"

namespace quire {
namespace {

bool has(std::span<const std::int64_t> ids, std::int64_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::none:
      break;
  }
  return "";
}

Request::Request(std::int64_t id, std::vector<std::int64_t> prompt_ids, RequestOptions options)
    : id_(id),
      num_prompt_(std::ssize(prompt_ids)),
      options_(std::move(options)),
      known_(std::move(prompt_ids)) {
  known_.reserve(static_cast<std::size_t>(num_prompt_ + options_.max_tokens));
  if (options_.logprobs > 0) logprobs_.reserve(static_cast<std::size_t>(options_.max_tokens));
}

std::vector<std::int64_t> Request::prompt_ids() const {
  const std::lock_guard lock(mutex_);
  return {known_.begin(), known_.begin() + num_prompt_};
}

std::vector<std::int64_t> Request::token_ids(std::int64_t first) const {
  if (first < 0) raise<ValueError>("Request.token_ids: first", "got ", first, ", expected >= 0");
  const std::lock_guard lock(mutex_);
  const std::int64_t count = num_kept_.value_or(std::ssize(known_) - num_prompt_);
  const auto answer = known_.begin() + num_prompt_;
  return {answer + std::min(first, count), answer + count};
}

std::int64_t Request::num_generated() const {
  const std::lock_guard lock(mutex_);
  return num_kept_.value_or(std::ssize(known_) - num_prompt_);
}

std::vector<TokenLogprobs> Request::logprobs() const {
  const std::lock_guard lock(mutex_);
  const auto count = std::min(num_kept_.value_or(std::ssize(logprobs_)), std::ssize(logprobs_));
  return {logprobs_.begin(), logprobs_.begin() + count};
}

std::int64_t Request::num_cached_tokens() const {
  const std::lock_guard lock(mutex_);
  return num_cached_;
}

FinishReason Request::finish_reason() const {
  const std::lock_guard lock(mutex_);
  return reason_;
}

void Request::stop(std::optional<std::int64_t> num_tokens) {
  const std::lock_guard lock(mutex_);
  if (reason_ != FinishReason::none && reason_ != FinishReason::length) return;
  const std::int64_t generated = std::ssize(known_) - num_prompt_;
  if (num_tokens && (*num_tokens < 0 || *num_tokens > generated)) {
    raise<ValueError>("Request.stop: num_tokens", "got ", *num_tokens, ", expected 0 to ",
                      generated, ", the tokens of the answer");
  }
  num_kept_ = num_tokens;
  reason_ = FinishReason::stop;
}

void Request::finish(FinishReason reason) {
  const std::lock_guard lock(mutex_);
  if (reason_ == FinishReason::none) reason_ = reason;
}

void Request::set_num_cached_tokens(std::int64_t num_tokens) {
  const std::lock_guard lock(mutex_);
  num_cached_ = num_tokens;
}

bool Request::add(std::int64_t token, std::optional<TokenLogprobs> logprobs,
                  std::span<const std::int64_t> model_stops) {
  const std::lock_guard lock(mutex_);
  if (reason_ != FinishReason::none) return false;
  known_.push_back(token);
  if (logprobs) logprobs_.push_back(*std::move(logprobs));
  const bool ends =
      (!options_.ignore_eos && has(model_stops, token)) || has(options_.stop_token_ids, token);
  if (ends) {
    reason_ = FinishReason::stop;
  } else if (std::ssize(known_) - num_prompt_ == options_.max_tokens) {
    reason_ = FinishReason::length;
  }
  return true;
}

void check_request(std::span<const std::int64_t> prompt_ids, const RequestOptions& options,
                   std::int64_t vocab_size, std::string_view function) {
  if (prompt_ids.empty()) {
    raise<ValueError>(place(function, "prompt"), "got no token, expected at least one");
  }
  const auto require_token = [&](std::string_view argument, std::int64_t id, std::size_t index) {
    if (id >= 0 && id < vocab_size) return;
    raise<IndexError>(place(function, argument), "got ", id, " at index ", index,
                      ", expected 0 to ", vocab_size - 1);
  };
  for (std::size_t i = 0; i < prompt_ids.size(); ++i) require_token("prompt", prompt_ids[i], i);
  for (std::size_t i = 0; i < options.stop_token_ids.size(); ++i) {
    require_token("stop", options.stop_token_ids[i], i);
  }
  if (options.max_tokens < 1) {
    raise<ValueError>(place(function, "max_tokens"), "got ", options.max_tokens, ", expected >= 1");
  }
  if (options.logprobs < 0 || options.logprobs > vocab_size) {
    raise<ValueError>(place(function, "logprobs"), "got ", options.logprobs, ", expected 0 to ",
                      vocab_size, ", the tokens of the vocabulary");
  }
  check_sample_options(options.choice, function);
}

}  // namespace quire
