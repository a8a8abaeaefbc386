// The tokens of a block table as a safetensors file, which any tool reads: for every layer L
//
//   "layers.L.k"   [rows, num_kv_heads, head_dim]      "layers.L.v"   [.., v_head_dim]
//
// in the pool's dtype: a row for each token but those whose block was dropped. With open blocks
// those are the rows of sealed columns, and the others are in "layers.L.k_open" and
// "layers.L.v_open" (file_planes.h): what comes back is read as it was. Where BlockTable::keep has
// taken tokens out, so that positions are not 0, 1, 2, ...
//
//   "positions"    [tokens] of int64
//
// Beside the metadata of kv_file.h it has
//
//   "quire.num_tokens"      of the sequence
//   "quire.blocks"          which logical blocks are in the file, as ranges: "0:1,3:7" is 0, and
//                           3 to 6, "" none. The others are holes.
//   "quire.open_columns"    with open blocks: how many columns, the last ones, are open. The
//                           others are sealed, and so is the last where the table was cut short
//                           within it.
//   "quire.next_position"   of the token after the last, where it does not follow from the last
#pragma once

#include <memory>
#include <string>

#include "quire/io/file_bytes.h"
#include "quire/kv/table/block_table.h"

namespace quire {

// Replaces the file as a whole or not at all (atomic_file.h), and returns when it is on the disk.
// The table is held still while its rows are read. Throws ValueError for a freed table, and for
// one that no file could give back: of more columns or later positions than one has, or with grids
// or open numbers that no pool has. Throws FileError, and ValueError for the path, as AtomicFile
// does.
void save_table(const BlockTable& table, const std::string& path);

// A new table with blocks of its own. Truncated, it goes back to what was saved, not to what was
// before that: with open blocks, what was sealed then stays so. Throws FileError where the file
// cannot be read; ValueError for a path that is empty or of no regular file, and for a file that
// save_table has not written, or not for a pool of this geometry, or that is damaged; OutOfBlocks.
// The pool is as before then.
std::shared_ptr<BlockTable> load_table(const std::shared_ptr<BlockPool>& pool,
                                       const std::string& path);
std::shared_ptr<BlockTable> load_table(const std::shared_ptr<BlockPool>& pool,
                                       const FileBytes& file);

}  // namespace quire
