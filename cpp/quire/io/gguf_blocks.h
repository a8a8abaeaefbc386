// The types of GGUF's tensors: their numbers, and the blocks of those that are quantised.
//
// A block is some numbers of one row with their scales. Below, d and m are float16; x are the
// numbers in their order, and q their codes; "low 0-15, high 16-31" says whose codes the low and
// the high halves of the bytes are.
//
//   Q4_0    32: d, 16 bytes of codes, low 0-15, high 16-31         x = d (q - 8)
//   Q4_1    32: d, m, 16 bytes as above                            x = d q + m
//   Q5_0    32: d, 32 fifth bits, 16 bytes as above                x = d (q - 16)
//   Q5_1    32: d, m, 32 fifth bits, 16 bytes as above             x = d q + m
//   Q8_0    32: d, 32 int8                                         x = d q
//   Q4_K   256: d, m, 8 scales s and 8 minima l of 6 bits in 12 bytes, 4 times 32 bytes, low
//               0-31, high 32-63 of each 64                        x = (d s) q - (m l)
//   Q5_K   256: as Q4_K, with 32 bytes of fifth bits before the codes, bit i of them of group i
//   Q6_K   256: 2 times 64 bytes of low halves, 2 times 32 bytes of two upper bits each, 16 int8
//               scales s, d                                        x = (d s) (q - 32)
//   IQ4_NL  32: d, 16 bytes as Q4_0, which number a table's entries   x = d table[q]
//   IQ4_XS 256: d, 8 scales s of 6 bits in 6 bytes, 8 times 16 bytes likewise
//                                                                  x = d (s - 32) table[q]
//
// Source: the block structs of github.com/ggml-org/ggml (src/ggml-common.h, the table too) and what
// src/ggml-quants.c says they stand for. Results are theirs in every bit.
#pragma once

#include <cstdint>

#include "quire/io/tensor_format.h"

namespace quire {

// The format of a tensor's type, by the number that a GGUF file has for it; null for a number that
// has no meaning or none any more. Formats whose numbers are not read have a size alone.
const TensorFormat* gguf_format(std::uint32_t type);

}  // namespace quire
