// All that a prefix cache holds as a safetensors file, "prefix_cache.safetensors" of a directory:
//
//   "layers.L.P"       the rows of its blocks, each block once (file_planes.h); of a pool with
//                      open blocks all of them are sealed, and full
//   "block_rows"       I64 [blocks]   how many of them are each block's
//   "node_parents" "node_blocks" "node_sizes"   I64 [nodes]   the nodes of prefix_snapshot.h
//   "node_priorities"  I64 [nodes]    theirs; not there where all are 0
//   "token_ids"        I64 [ids]      of node 0, node 1, ...
//   "namespaces"       U8 [bytes]     their names, one after the other, in UTF-8
//   "namespace_ends"   I64 [namespaces]   where in those bytes each name ends
//
// with the metadata of kv_file.h. One file, as one rename is all that a file system does at once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quire/io/file_bytes.h"
#include "quire/kv/prefix/prefix_cache.h"

namespace quire {

inline constexpr std::string_view kCacheFileName = "prefix_cache.safetensors";

// Makes the directory where it is missing, and replaces the file as a whole or not at all
// (atomic_file.h); returns when it is on the disk. Others may use the cache meanwhile: what it
// holds at the beginning is saved, and cannot be evicted until it has been written. Throws
// FileError, and ValueError as AtomicFile does for the path, for an empty one, and where a block of
// int4 has a grid that attention would refuse. Directories that were made are removed then.
void save_cache(const PrefixCache& cache, const std::string& directory);

// Adds what the file holds to the cache, at most max_blocks blocks, those used last, and says how
// many were added. What is there already stays, and takes no room: only others that are idle make
// some. Throws as load_table; the pool and the cache are as before then.
std::int64_t load_cache(PrefixCache& cache, const std::string& directory);
std::int64_t load_cache(PrefixCache& cache, const FileBytes& file);

}  // namespace quire
