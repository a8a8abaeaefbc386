#include "quire/engine/engine.h"

#include <algorithm>
#include <utility>

#include "quire/base/available_memory.h"
#include "quire/base/check.h"
#include "quire/base/interruption.h"
#include "quire/engine/pool_size.h"
#include "quire/paged/make_pool.h"

namespace quire {
namespace {

void check_options(const EngineOptions& options) {
  const auto require = [](std::string_view argument, std::int64_t value) {
    if (value < 1) raise<ValueError>(place("Engine", argument), "got ", value, ", expected >= 1");
  };
  if (options.num_blocks) require("num_blocks", *options.num_blocks);
  require("block_size", options.block_size);
  require("max_batch_tokens", options.max_batch_tokens);
  require("max_sequences", options.max_sequences);
  if (options.draft != "none") {
    raise<ValueError>("Engine: draft", "got \"", options.draft, "\", expected one of \"none\"");
  }
}

}  // namespace

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options)
    : model_(std::move(model)), how_(default_execution(options.num_threads, "Engine")) {
  check_options(options);
  const std::int64_t memory = available_memory();
  counts_.max_sequences = options.max_sequences;
  if (const auto state = model_->make_states(1)) {
    counts_.state_bytes = state->bytes_per_slot();
    const std::int64_t most = std::max<std::int64_t>(1, memory / 4 / counts_.state_bytes);
    counts_.max_sequences = std::min(options.max_sequences, most);
    states_ = model_->make_states(counts_.max_sequences);
  }
  const bool keeps_prefixes = options.prefix_cache && states_ == nullptr;
  counts_.prefix_cache_reason = keeps_prefixes       ? "on"
                                : states_ != nullptr ? "off: the model keeps recurrent states"
                                                     : "off, as asked";
  KvGeometry geometry = model_->kv_shape().geometry();
  geometry.block_size = options.block_size;
  geometry.dtype = options.dtype;
  if (options.num_blocks) {
    geometry.num_blocks = *options.num_blocks;
    counts_.num_blocks_reason = "as asked";
  } else {
    const PoolSize size =
        choose_pool_size(geometry, model_->max_positions(), counts_.max_sequences, memory);
    geometry.num_blocks = size.num_blocks;
    counts_.num_blocks_reason = size.reason;
  }
  pool_ = make_pool(geometry, {}, how_);
  if (keeps_prefixes) cache_ = std::make_shared<PrefixCache>(pool_);
  scheduler_ = std::make_unique<Scheduler>(
      pool_, cache_, Scheduler::Limits{options.max_batch_tokens, counts_.max_sequences});
  tell();
}

std::shared_ptr<Request> Engine::submit(std::vector<std::int64_t> prompt_ids,
                                        RequestOptions options) {
  constexpr std::string_view function = "Engine.submit";
  check_request(prompt_ids, options, model_->vocab_size(), function);
  const std::int64_t num_prompt = std::ssize(prompt_ids);
  if (num_prompt > model_->max_positions()) {
    raise<ValueError>(place(function, "prompt"), "got ", counted(num_prompt, "token"),
                      ", expected at most ", model_->max_positions(), ", the model's positions");
  }
  // Both are below 2^63, their sum need not be.
  const std::int64_t most = model_->max_positions() - num_prompt + 1;
  if (options.max_tokens > most) {
    raise<ValueError>(place(function, "max_tokens"), "got ", options.max_tokens,
                      " after a prompt of ", counted(num_prompt, "token"), ", expected at most ",
                      most, " of the model's ", model_->max_positions(),
                      " positions (the last token takes none)");
  }
  scheduler_->require_fits(num_prompt, options.max_tokens, function);
  const std::lock_guard lock(books_);
  submitted_.push_back(
      std::make_shared<Request>(next_id_, std::move(prompt_ids), std::move(options)));
  ++next_id_;
  return submitted_.back();
}

std::vector<std::shared_ptr<Request>> Engine::step() {
  const std::lock_guard lock(stepping_);
  const WorkersScope scope(workers_);
  try {
    take_submitted();
    std::vector<std::shared_ptr<Request>> answered = run_step();
    tell();
    return answered;
  } catch (...) {
    ++counts_.failed_steps;
    tell();
    throw;
  }
}

void Engine::take_submitted() {
  const std::lock_guard lock(books_);
  for (const std::shared_ptr<Request>& request : submitted_) scheduler_->add(request);
  told_.waiting += std::ssize(submitted_);  // other threads ask while the step is under way
  submitted_.clear();
}

std::vector<std::shared_ptr<Request>> Engine::run_step() {
  Stopwatch watch;
  std::optional<Batch> batch = scheduler_->schedule();
  watch.add_to(counts_.schedule_seconds);
  if (!batch) return {};
  std::vector<ChosenToken> chosen;
  try {
    chosen = compute(*batch, watch);
  } catch (...) {
    // Rows of the tables that are left are as they were; states are updated in place.
    if (states_ != nullptr) scheduler_->start_over(*batch);
    throw;
  }
  const Uninterrupted whole;  // from here on requests change
  ++counts_.steps;
  counts_.computed_tokens += batch->step->num_tokens();
  std::vector<std::shared_ptr<Request>> answered = add_tokens(*batch, std::move(chosen));
  scheduler_->keep_prefixes(*batch);
  scheduler_->drop_finished();
  watch.add_to(counts_.settle_seconds);
  return answered;
}

std::vector<ChosenToken> Engine::compute(const Batch& batch, Stopwatch& watch) {
  const Step::TakeBack guard(*batch.step);
  std::vector<std::int64_t> token_ids, slots, logit_rows;
  std::vector<Chooser> choosers;
  for (const Batch::Entry& entry : batch.entries) {
    const Request& request = *entry.sequence->request;
    const auto known = request.known();
    const auto end = static_cast<std::size_t>(entry.sequence->num_computed());
    const std::size_t begin = end - static_cast<std::size_t>(entry.num_tokens);
    token_ids.insert(token_ids.end(), known.begin() + begin, known.begin() + end);
    slots.push_back(entry.sequence->slot);
    if (states_ != nullptr && begin == 0) states_->clear(entry.sequence->slot);
    if (!entry.catches_up) continue;
    logit_rows.push_back(std::ssize(token_ids) - 1);
    const auto num_prompt = static_cast<std::size_t>(request.num_prompt_tokens());
    choosers.push_back(
        {request.id(), &request.options(), known.first(num_prompt), known.subspan(num_prompt)});
  }
  const ArrayView logits = logits_for(std::ssize(logit_rows));
  model_->forward({.step = *batch.step,
                   .token_ids = token_ids,
                   .states = states_.get(),
                   .state_slots = states_ == nullptr ? std::span<const std::int64_t>{} : slots,
                   .logit_rows = logit_rows,
                   .logits = logits},
                  how_);
  watch.add_to(counts_.forward_seconds);
  if (choosers.empty()) return {};
  std::vector<ChosenToken> chosen = choose_tokens(choosers, logits, how_);
  watch.add_to(counts_.choose_seconds);
  return chosen;
}

ArrayView Engine::logits_for(std::int64_t num_rows) {
  const auto needed = static_cast<std::size_t>(num_rows * model_->vocab_size());
  if (logits_.size() < needed) logits_.resize(needed);
  return view_of(logits_, {num_rows, model_->vocab_size()});
}

std::vector<std::shared_ptr<Request>> Engine::add_tokens(const Batch& batch,
                                                         std::vector<ChosenToken> chosen) {
  std::vector<std::shared_ptr<Request>> answered;
  auto next = chosen.begin();
  for (const Batch::Entry& entry : batch.entries) {
    if (!entry.catches_up) continue;
    const std::shared_ptr<Request>& request = entry.sequence->request;
    ChosenToken& token = *next++;
    if (request->add(token.id, std::move(token.logprobs), model_->stop_token_ids())) {
      answered.push_back(request);
    }
  }
  counts_.generated_tokens += std::ssize(answered);
  std::ranges::sort(answered, {}, [](const auto& request) { return request->id(); });
  return answered;
}

void Engine::tell() {
  const Scheduler::Counts& counts = scheduler_->counts();
  counts_.waiting = scheduler_->num_waiting();
  counts_.running = scheduler_->num_running();
  counts_.prompt_tokens = counts.prompt_tokens;
  counts_.cached_tokens = counts.cached_tokens;
  counts_.preemptions = counts.preemptions;
  counts_.tokens_to_recompute = counts.tokens_to_recompute;
  const std::lock_guard lock(books_);
  told_ = counts_;
}

bool Engine::has_unfinished() const {
  const std::lock_guard lock(books_);
  return !submitted_.empty() || told_.waiting + told_.running > 0;
}

EngineStats Engine::stats() const {
  EngineStats stats;
  {
    const std::lock_guard lock(books_);
    stats = told_;
    stats.waiting += std::ssize(submitted_);
    stats.finished = next_id_ - stats.waiting - stats.running;
  }
  stats.pool = pool_->stats();
  if (cache_ != nullptr) stats.prefix_cache = cache_->stats();
  return stats;
}

void Engine::check() {
  const std::lock_guard lock(stepping_);
  scheduler_->check();
}

}  // namespace quire
