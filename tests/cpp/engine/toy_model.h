// Models that are right or wrong at a glance: a row of logits depends on every key that the pool
// has of the sequence up to there, read back from the pool, and on nothing else.
//
//   key of a token      its id and its position, exactly
//   fingerprint         of all keys of the sequence up to a token, in order
//   logits              kWords numbers that the fingerprint is the seed of
//
// So a block that is another's, was not computed, or was computed for other tokens changes the
// answer. The recurrent one has its fingerprint in a state instead, of which each token makes the
// next.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "quire/base/check.h"
#include "quire/model/model.h"
#include "quire/ops/sampling/philox.h"

namespace quire::testing {

inline constexpr std::int64_t kWords = 61;
inline constexpr std::int64_t kStopWord = 60;

// Of 24 bits, which a float32 has exactly.
inline std::uint32_t next_fingerprint(std::uint32_t before, std::int64_t token,
                                      std::int64_t position) {
  std::uint64_t mixed = before * 0x9E3779B97F4A7C15u + static_cast<std::uint64_t>(token) + 1;
  mixed ^= mixed >> 31;
  mixed = (mixed + static_cast<std::uint64_t>(position)) * 0xBF58476D1CE4E5B9u;
  return static_cast<std::uint32_t>(mixed >> 40);
}

inline void write_logits(std::uint32_t fingerprint, float* logits) {
  std::uint64_t random = fingerprint + 1;
  for (std::int64_t word = 0; word < kWords; ++word) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    logits[word] = static_cast<float>(random >> 44) / 131072.0f;  // 0 to 8
  }
  logits[kStopWord] -= 6.0f;  // an answer may end, but most go on
}

// What the answer has to be: greedy, from the tokens alone.
inline std::vector<std::int64_t> greedy_answer(const std::vector<std::int64_t>& prompt,
                                               std::int64_t max_tokens) {
  std::vector<std::int64_t> known = prompt, answer;
  std::uint32_t fingerprint = 0;
  std::int64_t position = 0;
  while (std::ssize(answer) < max_tokens) {
    for (; position < std::ssize(known); ++position) {
      fingerprint = next_fingerprint(fingerprint, known[position], position);
    }
    float logits[kWords];
    write_logits(fingerprint, logits);
    std::int64_t best = 0;
    for (std::int64_t word = 1; word < kWords; ++word) {
      if (logits[word] > logits[best]) best = word;
    }
    answer.push_back(best);
    known.push_back(best);
    if (best == kStopWord) break;
  }
  return answer;
}

// What both have in common. `during` is called in the middle of each forward pass, once keys are
// written, and may throw.
class ToyModel : public Model {
 public:
  explicit ToyModel(std::int64_t max_positions = 512) : max_positions_(max_positions) {}

  std::int64_t vocab_size() const override { return kWords; }
  std::int64_t max_positions() const override { return max_positions_; }
  KvShape kv_shape() const override {
    return {.num_layers = 2, .num_kv_heads = 1, .head_dim = 2, .value_dim = 2};
  }
  std::shared_ptr<RecurrentStates> make_states(std::int64_t) const override { return nullptr; }
  std::span<const std::int64_t> stop_token_ids() const override { return stops_; }

  void forward(const ForwardArgs& args, const Execution& how) const override {
    const Step& step = args.step;
    const std::int64_t num_tokens = step.num_tokens();
    if (std::ssize(args.token_ids) != num_tokens) throw ValueError("forward: token_ids");
    std::vector<float> keys, values(static_cast<std::size_t>(2 * num_tokens));
    for (std::int64_t i = 0; i < num_tokens; ++i) {
      keys.push_back(static_cast<float>(args.token_ids[i]));
      keys.push_back(static_cast<float>(step.positions()[i]));
    }
    for (const std::int64_t layer : {0, 1}) {
      step.write(view_of(keys, {num_tokens, 1, 2}), view_of(values, {num_tokens, 1, 2}), layer,
                 how);
    }
    if (during) during(args);
    std::size_t next = 0;
    for (std::size_t i = 0; i < step.tables().size(); ++i) {
      const std::int64_t begin = step.cu_seqlens_q()[i], end = step.cu_seqlens_q()[i + 1];
      const std::vector<std::uint32_t> prints = fingerprints(args, i, end - begin);
      for (; next < args.logit_rows.size() && args.logit_rows[next] < end; ++next) {
        write_logits(prints[static_cast<std::size_t>(args.logit_rows[next] - begin)],
                     reinterpret_cast<float*>(args.logits.at(next)));
      }
    }
  }

  std::function<void(const ForwardArgs&)> during;

 protected:
  // After each of the sequence's new tokens.
  virtual std::vector<std::uint32_t> fingerprints(const ForwardArgs& args, std::size_t sequence,
                                                  std::int64_t num_new) const {
    const BlockTable& table = *args.step.tables()[sequence];
    const std::int64_t length = table.num_tokens();
    std::vector<float> keys(static_cast<std::size_t>(2 * length)), values(keys.size());
    table.gather(1, length, keys.data(), values.data());
    std::vector<std::uint32_t> prints;
    std::uint32_t fingerprint = 0;
    for (std::int64_t i = 0; i < length; ++i) {
      fingerprint = next_fingerprint(fingerprint, static_cast<std::int64_t>(keys[2 * i]),
                                     static_cast<std::int64_t>(keys[2 * i + 1]));
      if (i >= length - num_new) prints.push_back(fingerprint);
    }
    return prints;
  }

 private:
  const std::int64_t max_positions_;
  const std::vector<std::int64_t> stops_ = {kStopWord};
};

class RecurrentToyModel : public ToyModel {
 public:
  using ToyModel::ToyModel;
  std::shared_ptr<RecurrentStates> make_states(std::int64_t num_slots) const override {
    const RecurrentShape shape = {
        .num_layers = 1, .channels = 1, .past = 1, .num_heads = 1, .key_dim = 1, .value_dim = 1};
    return std::make_shared<RecurrentStates>(shape, num_slots);
  }

 protected:
  std::vector<std::uint32_t> fingerprints(const ForwardArgs& args, std::size_t sequence,
                                          std::int64_t num_new) const override {
    auto& state =
        *reinterpret_cast<float*>(args.states->matrices(0).at(args.state_slots[sequence]));
    const std::int64_t begin = args.step.cu_seqlens_q()[sequence];
    std::vector<std::uint32_t> prints;
    for (std::int64_t i = begin; i < begin + num_new; ++i) {
      prints.push_back(next_fingerprint(static_cast<std::uint32_t>(state), args.token_ids[i],
                                        args.step.positions()[i]));
      state = static_cast<float>(prints.back());
    }
    return prints;
  }
};

}  // namespace quire::testing
