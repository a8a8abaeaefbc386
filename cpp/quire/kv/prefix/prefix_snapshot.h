// What a prefix cache holds at one moment, as plain arrays: to be saved, and put back.
//
//   [ 5 1 8 2 ] -+- [ 7 7 1 3 ] -- [ 9 ]      node     0        1        2        3
//                |                            ids      7 7 4 0  9        7 7 1 3  5 1 8 2
//                `- [ 7 7 4 0 ]               parent   3        2        3        -1
//
// The nodes stand in the order in which they would be evicted, each before its parent: so the last
// n nodes are a tree as well, the n that were used last.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace quire {

// The first rows of a block.
struct BlockRows {
  std::int32_t id = -1;  // of the pool
  std::int64_t rows = 0;
};

struct PrefixSnapshot {
  struct Node {
    std::int64_t parent = -1;  // a later node, or -1 - i for the first block of namespaces[i]
    std::int64_t block = 0;    // index into blocks
    std::int64_t size = 0;     // ids, 1 to block_size; block_size where it has children
    std::int64_t priority = 0;
  };

  std::vector<std::string> namespaces;
  std::vector<Node> nodes;
  std::vector<std::int64_t> ids;  // of node 0, node 1, ...
  // In the order in which nodes name them first, each once, however many nodes share it. Its rows
  // are those that belong to ids, so as many as the greatest of its nodes has.
  std::vector<BlockRows> blocks;
};

}  // namespace quire
