// top-k and top-p over a vocabulary of tokens, without sorting it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace quire {

// Tokens are counted, and their powers added up, by how far their logits are below the largest: in
// buckets of which each octave has 64. Of the bucket in which a filter's border lies the tokens are
// looked at one by one.
class TokenFilters {
 public:
  // Some logits below infinity, of which `largest` is one, and their powers. A filter makes powers
  // of tokens 0 that share their logit with one that stays, and says below which logit all are out.
  TokenFilters(const float* logits, std::int64_t count, float largest, float* powers);

  // The k largest stay, and all that equal the last of them.
  void keep_largest(std::int64_t k);
  // Of those that stay the fewest of the likeliest whose powers reach `part` of all; of equals
  // those of lower ids.
  void keep_likeliest(double part);

  float least_logit() const { return least_; }

 private:
  struct Token {
    float logit;
    std::int32_t id;

    bool operator<(const Token& other) const {  // the likeliest first
      return logit != other.logit ? logit > other.logit : id < other.id;
    }
  };

  std::int64_t bucket_of(float logit) const;
  void collect(std::int64_t bucket);  // those of it that stay, into tokens_
  double mass_of(std::size_t begin, std::size_t end) const;
  std::size_t likeliest_that_reach(double wanted);

  const float* const logits_;
  const std::int64_t count_;
  const float largest_;
  float* const powers_;
  float least_;
  std::vector<std::int32_t> counts_;
  std::vector<double> masses_;
  std::vector<Token> tokens_;
};

}  // namespace quire
