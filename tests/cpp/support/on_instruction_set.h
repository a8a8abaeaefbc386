// Tests that run on every instruction set of this machine and compare with the oracle.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "quire/cpu/operations.h"
#include "quire/cpu/select_kernels.h"
#include "support/attention_problem.h"
#include "support/with_instruction_set.h"

namespace quire::testing {

// Sequence `seq` of a problem, with the results of its rows at the beginning of the problem's.
class AloneInBatch {
 public:
  AloneInBatch(const Problem& problem, const PagedAttentionArgs& args, std::size_t seq)
      : args_(args),
        begin_(problem.cu_seqlens[seq]),
        rows_(problem.cu_seqlens[seq + 1] - begin_),
        cu_seqlens_{0, static_cast<std::int32_t>(rows_)} {
    const auto row = static_cast<std::int64_t>(seq);
    args_.q.data = args.q.at(begin_);
    args_.q.shape[0] = args_.out.shape[0] = rows_;
    args_.block_tables.data += row * args.block_tables.strides[0];
    args_.block_tables.shape[0] = args_.seq_lens.shape[0] = 1;
    args_.seq_lens.data += row * args.seq_lens.strides[0];
    args_.cu_seqlens_q = contiguous_index_view(cu_seqlens_, {2});
    if (args.key_positions) {
      args_.key_positions->data += row * args.key_positions->strides[0];
      args_.key_positions->shape[0] = 1;
    }
    if (args.tree_mask) {
      std::size_t before = 0;
      for (std::size_t i = 0; i < seq; ++i) {
        before += static_cast<std::size_t>(problem.sizes.q_lens[i] * problem.sizes.q_lens[i]);
      }
      args_.tree_mask = args.tree_mask->subspan(before, static_cast<std::size_t>(rows_ * rows_));
    }
    if (args.causal_of_each) args_.causal_of_each = args.causal_of_each->subspan(seq, 1);
  }
  AloneInBatch(const AloneInBatch&) = delete;
  AloneInBatch& operator=(const AloneInBatch&) = delete;

  const PagedAttentionArgs& args() const { return args_; }
  std::int64_t begin() const { return begin_; }  // rows of the batch before its own
  std::int64_t rows() const { return rows_; }

 private:
  PagedAttentionArgs args_;
  std::int64_t begin_, rows_;
  std::int32_t cu_seqlens_[2];
};

inline void forget_results(Problem& problem) {
  problem.out.fill(kNaN);
  std::fill(problem.lse.begin(), problem.lse.end(), kNaN);
}

// Compares a problem's results with the oracle's: values within `tolerance` of the largest value,
// lse within it of 1 + |lse|.
inline void expect_results(const Problem& problem, Implementation implementation,
                           const Answer& answer, double tolerance) {
  if (answer.out.size() == 0) return;
  const double bound = tolerance * std::max(1.0, answer.out.cwiseAbs().maxCoeff());
  for (Eigen::Index row = 0; row < answer.out.rows(); ++row) {
    for (Eigen::Index d = 0; d < answer.out.cols(); ++d) {
      const double got = problem.out.get(row * answer.out.cols() + d);
      ASSERT_LE(std::abs(got - answer.out(row, d)), bound)
          << name_of(implementation) << " row " << row << " column " << d << ": got " << got
          << ", expected " << answer.out(row, d);
    }
    const double lse = answer.lse(row);
    if (std::isinf(lse)) {
      ASSERT_EQ(problem.lse[row], -kInfinity) << name_of(implementation) << " row " << row;
    } else {
      ASSERT_NEAR(problem.lse[row], lse, tolerance * (1 + std::abs(lse)))
          << name_of(implementation) << " row " << row;
    }
  }
}

inline void expect_answer(Problem& problem, PagedAttentionArgs args, Implementation implementation,
                          const Answer& answer, double tolerance = 5e-6) {
  forget_results(problem);
  paged_attention(args, implementation);
  expect_results(problem, implementation, answer, tolerance);
}

// The mass of each block, and that what else comes out is the same bits for its sake.
inline void expect_block_mass(Problem& problem, PagedAttentionArgs args,
                              Implementation implementation, const Answer& answer,
                              double tolerance) {
  const Array out = problem.out;
  const std::vector<float> lse = problem.lse;
  std::vector<float> mass(static_cast<std::size_t>(answer.block_mass.size()), kNaN);
  args.block_mass = mass.data();
  paged_attention(args, implementation);
  ASSERT_EQ(problem.out.bytes, out.bytes);
  ASSERT_TRUE(std::equal(lse.begin(), lse.end(), problem.lse.begin()));
  for (Eigen::Index row = 0; row < answer.block_mass.rows(); ++row) {
    for (Eigen::Index column = 0; column < answer.block_mass.cols(); ++column) {
      const float got = mass[row * answer.block_mass.cols() + column];
      ASSERT_NEAR(got, answer.block_mass(row, column), 4 * tolerance)
          << name_of(implementation) << " row " << row << " column " << column;
    }
  }
}

class OnInstructionSet : public ::testing::TestWithParam<std::string> {
 protected:
  const WithInstructionSet instruction_set_{GetParam()};

  // The dense implementation, which is plain code for any processor, once and not on every set.
  void expect_all(Problem& problem, const PagedAttentionArgs& args, double tolerance = 5e-6) {
    const Answer answer = oracle(problem, args);
    for (const Implementation implementation :
         {Implementation::fused, Implementation::gather, Implementation::dense}) {
      const bool knows_sets = implementation != Implementation::dense;
      if (!knows_sets && GetParam() != available_instruction_sets().front()) continue;
      expect_answer(problem, args, implementation, answer, tolerance);
      if (HasFatalFailure()) return;
      expect_block_mass(problem, args, implementation, answer, tolerance);
      if (HasFatalFailure()) return;
    }
  }
};

inline std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const std::string_view name : available_instruction_sets()) names.emplace_back(name);
  return names;
}

}  // namespace quire::testing
