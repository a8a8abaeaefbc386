// The rows of blocks as tensors of a file (file_planes.h): the first rows of one block after those
// of another, and no others: what stands behind the last token of a block is nobody's, and may be
// written at this moment.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "quire/io/file_planes.h"
#include "quire/io/kv_file.h"
#include "quire/kv/pool/block_pool.h"
#include "quire/kv/prefix/prefix_snapshot.h"

namespace quire {

// The tensors of so many tokens in so many blocks.
std::vector<TensorSpec> row_tensors(const BlockPool& pool, RowsOf kind, std::int64_t tokens,
                                    std::int64_t blocks);

// Writes the tensors of row_tensors, of which the writer knows the first as `tensor`; returns the
// one after the last. Calls done(n) where the first n blocks have been read and are not needed any
// more. The caller holds the blocks. Those that are not in memory are streamed. Throws ValueError,
// starting with `where`, for numbers that expect_numbers would refuse.
std::size_t write_rows(std::string_view where, SafetensorsWriter& writer, std::size_t tensor,
                       const BlockPool& pool, RowsOf kind, std::span<const BlockRows> blocks,
                       const std::function<void(std::size_t)>& done);

// That the numbers of the file, which has those tensors, are such as a pool has.
void expect_numbers(const KvFile& file, const BlockPool& pool, RowsOf kind);

// Copies the rows from the file, which has those tensors, block by block. Those of a block with id
// -1 are passed over. Where not all blocks are kept in memory, it is as many at a time as a stretch
// of a stream has; throws FileError, under the name of the file's function, where one of them could
// not be written to the pool's file.
void read_rows(const KvFile& file, const BlockPool& pool, RowsOf kind,
               std::span<const BlockRows> blocks);

}  // namespace quire
