#include "quire/io/cache_file.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "quire/base/interruption.h"
#include "quire/io/atomic_file.h"
#include "quire/io/directory.h"
#include "quire/io/kv_file.h"
#include "quire/io/kv_rows.h"
#include "quire/io/mapped_file.h"

namespace quire {
namespace {

constexpr std::string_view kKind = "prefix_cache";
constexpr const char* kPriorities = "node_priorities";

// References of a user to blocks, given back in their order, at the latest when this goes.
class HeldBlocks {
 public:
  // Those with id -1 are none.
  HeldBlocks(BlockPool& pool, std::span<const BlockRows> blocks) : pool_(pool), blocks_(blocks) {}
  ~HeldBlocks() {
    try {
      release_to(blocks_.size());
    } catch (const std::exception&) {
      released_ = blocks_.size();  // somebody has released them in our place
    }
  }
  HeldBlocks(const HeldBlocks&) = delete;
  HeldBlocks& operator=(const HeldBlocks&) = delete;

  void release_to(std::size_t end) {
    std::vector<std::int32_t> ids;
    for (; released_ < end; ++released_) {
      if (blocks_[released_].id >= 0) ids.push_back(blocks_[released_].id);
    }
    pool_.release(ids);
  }

 private:
  BlockPool& pool_;
  std::span<const BlockRows> blocks_;
  std::size_t released_ = 0;
};

std::int64_t total_rows(std::span<const BlockRows> blocks) {
  std::int64_t rows = 0;
  for (const BlockRows& block : blocks) rows += block.rows;
  return rows;
}

// One vector of numbers for each field.
struct Columns {
  std::vector<std::int64_t> parents, blocks, sizes, priorities, block_rows, namespace_ends;
  std::string namespaces;

  explicit Columns(const PrefixSnapshot& snapshot) {
    for (const PrefixSnapshot::Node& node : snapshot.nodes) {
      parents.push_back(node.parent);
      blocks.push_back(node.block);
      sizes.push_back(node.size);
      priorities.push_back(node.priority);
    }
    for (const BlockRows& block : snapshot.blocks) block_rows.push_back(block.rows);
    for (const std::string& name : snapshot.namespaces) {
      namespaces += name;
      namespace_ends.push_back(static_cast<std::int64_t>(namespaces.size()));
    }
  }
};

template <class T>
std::int64_t length(const T& values) {
  return static_cast<std::int64_t>(values.size());
}

std::vector<std::string> read_namespaces(const KvFile& file) {
  const auto bytes = file.vector_bytes("namespaces", "U8");
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<std::string> names;
  std::int64_t begin = 0;
  for (const std::int64_t end : file.integers("namespace_ends")) {
    if (end < begin || end > length(text)) {
      file.file().refuse("namespace_ends ", end, " at index ", names.size(), ", expected ", begin,
                         " to ", text.size());
    }
    names.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return names;
}

// That a number of a column is in a range.
void expect(const KvFile& file, std::string_view column, std::size_t index, std::int64_t value,
            std::int64_t least, std::int64_t most) {
  if (value >= least && value <= most) return;
  file.file().refuse(column, " ", value, " at index ", index, ", expected ", least, " to ", most);
}

// The tree, checked, with blocks that are none yet: a node's parent comes after it, so there is no
// cycle, and is full. With open blocks all nodes are, as only full blocks are sealed.
PrefixSnapshot read_tree(const KvFile& file, const BlockPool& pool) {
  const std::int64_t block_size = pool.geometry().block_size;
  const std::int64_t least_rows = pool.geometry().least_cached_rows();
  PrefixSnapshot snapshot;
  snapshot.namespaces = read_namespaces(file);
  snapshot.ids = file.integers("token_ids");
  for (const std::int64_t rows : file.integers("block_rows")) {
    expect(file, "block_rows", snapshot.blocks.size(), rows, least_rows, block_size);
    snapshot.blocks.push_back({-1, rows});
  }
  const auto parents = file.integers("node_parents");
  const auto blocks = file.integers("node_blocks");
  const auto sizes = file.integers("node_sizes");
  const bool has_priorities = file.has_tensor(kPriorities);
  const auto priorities =
      has_priorities ? file.integers(kPriorities) : std::vector<std::int64_t>(parents.size(), 0);
  if (blocks.size() != parents.size() || sizes.size() != parents.size()) {
    file.file().refuse(parents.size(), " node_parents, ", blocks.size(), " node_blocks and ",
                       sizes.size(), " node_sizes, expected as many of each");
  }
  if (priorities.size() != parents.size()) {
    file.file().refuse(parents.size(), " node_parents and ", priorities.size(), " ", kPriorities,
                       ", expected as many of each");
  }
  std::int64_t ids = 0;
  for (std::size_t i = 0; i < parents.size(); ++i) {
    expect(file, kPriorities, i, priorities[i], PrefixNodes::kLeastPriority,
           PrefixNodes::kMostPriority);
    expect(file, "node_blocks", i, blocks[i], 0, length(snapshot.blocks) - 1);
    expect(file, "node_sizes", i, sizes[i], least_rows, snapshot.blocks[blocks[i]].rows);
    const bool is_later = parents[i] > static_cast<std::int64_t>(i) && parents[i] < length(parents);
    if (!is_later && (parents[i] >= 0 || parents[i] < -length(snapshot.namespaces))) {
      file.file().refuse("node_parents ", parents[i], " at index ", i, ", expected a later one of ",
                         counted(parents.size(), "node"), ", or -1 - i for one of ",
                         counted(snapshot.namespaces.size(), "namespace"));
    }
    if (is_later) expect(file, "node_sizes", parents[i], sizes[parents[i]], block_size, block_size);
    snapshot.nodes.push_back({parents[i], blocks[i], sizes[i], priorities[i]});
    ids += sizes[i];
  }
  if (ids != length(snapshot.ids)) {
    file.file().refuse(snapshot.ids.size(), " token_ids, expected the ", ids, " of all nodes");
  }
  return snapshot;
}

// Forgets all but the last nodes, those used last, which are a tree as well.
void keep_last_nodes(std::size_t count, PrefixSnapshot* snapshot) {
  if (count >= snapshot->nodes.size()) return;
  const auto dropped = static_cast<std::ptrdiff_t>(snapshot->nodes.size() - count);
  const auto kept = snapshot->nodes.begin() + dropped;
  std::int64_t ids = 0;
  for (auto node = snapshot->nodes.begin(); node != kept; ++node) ids += node->size;
  snapshot->ids.erase(snapshot->ids.begin(), snapshot->ids.begin() + ids);
  snapshot->nodes.erase(snapshot->nodes.begin(), kept);
  for (PrefixSnapshot::Node& node : snapshot->nodes) {
    if (node.parent >= 0) node.parent -= dropped;
  }
}

// Has the nodes that the cache holds already name the cache's blocks, and gives the others new
// ones. `held`, of as many entries as there are nodes, keeps the blocks of both: the cached ones
// from the first, so that none has to make room for its own likeness.
void find_blocks(const FileBytes& file, PrefixCache& cache, PrefixSnapshot* snapshot,
                 std::vector<BlockRows>* held) {
  const std::vector<std::int32_t> cached = cache.hold_blocks_of(*snapshot);
  for (std::size_t i = 0; i < cached.size(); ++i) (*held)[i].id = cached[i];
  std::vector<bool> needed(snapshot->blocks.size(), false);
  for (std::size_t i = 0; i < cached.size(); ++i) {
    PrefixSnapshot::Node& node = snapshot->nodes[i];
    if (cached[i] < 0) {
      needed[node.block] = true;
    } else {
      node.block = length(snapshot->blocks);
      snapshot->blocks.push_back({cached[i], node.size});
    }
  }
  const std::int64_t count = std::count(needed.begin(), needed.end(), true);
  BlockPool& pool = *cache.pool();
  std::vector<std::int32_t> ids;
  try {
    ids = pool.allocate(count);
  } catch (const OutOfBlocks&) {
    const PoolStats stats = pool.stats();
    file.refuse<OutOfBlocks>(counted(count, "block"), ", expected at most the ", stats.free,
                             " free and ", stats.cached, " cached",
                             stats.pinned > 0 ? concat(", beside ", stats.pinned, " pinned") : "");
  }
  auto next = ids.begin();
  for (std::size_t i = 0; i < cached.size(); ++i) {
    std::int32_t& id = snapshot->blocks[snapshot->nodes[i].block].id;
    if (id < 0) id = (*held)[i].id = *next++;
  }
}

}  // namespace

void save_cache(const PrefixCache& cache, const std::string& directory) {
  constexpr std::string_view function = "PrefixCache.save";
  cache.pool()->storage().memory().require_written(function);
  const BlockPool::Delivery delivery(*cache.pool());
  expect_path(function, "dir", directory);
  NewDirectories directories(function, directory);
  AtomicFile file(function, concat(directory, "/", kCacheFileName));
  const BlockPool& pool = *cache.pool();
  const PrefixSnapshot snapshot = cache.snapshot();
  HeldBlocks held(*cache.pool(), snapshot.blocks);
  const Columns columns(snapshot);
  std::vector<TensorSpec> tensors = {{"node_parents", "I64", {length(columns.parents)}},
                                     {"node_blocks", "I64", {length(columns.blocks)}},
                                     {"node_sizes", "I64", {length(columns.sizes)}},
                                     {"token_ids", "I64", {length(snapshot.ids)}},
                                     {"block_rows", "I64", {length(columns.block_rows)}},
                                     {"namespace_ends", "I64", {length(columns.namespace_ends)}},
                                     {"namespaces", "U8", {length(columns.namespaces)}}};
  const bool has_priorities =
      std::ranges::any_of(columns.priorities, [](auto p) { return p != 0; });
  if (has_priorities) tensors.push_back({kPriorities, "I64", {length(columns.priorities)}});
  const std::size_t first_row_tensor = tensors.size();
  for (TensorSpec& spec :
       row_tensors(pool, RowsOf::tiles, total_rows(snapshot.blocks), length(snapshot.blocks))) {
    tensors.push_back(std::move(spec));
  }
  SafetensorsWriter writer(file, kv_metadata(kKind, pool.geometry()), std::move(tensors));
  writer.write(0, columns.parents);
  writer.write(1, columns.blocks);
  writer.write(2, columns.sizes);
  writer.write(3, snapshot.ids);
  writer.write(4, columns.block_rows);
  writer.write(5, columns.namespace_ends);
  writer.write(6, std::as_bytes(std::span(columns.namespaces)));
  if (has_priorities) writer.write(7, columns.priorities);
  write_rows("PrefixCache.save: cache", writer, first_row_tensor, pool, RowsOf::tiles,
             snapshot.blocks, [&](std::size_t written) { held.release_to(written); });
  writer.finish();
  file.commit();
  directories.keep();
}

std::int64_t load_cache(PrefixCache& cache, const std::string& directory) {
  constexpr std::string_view function = "PrefixCache.load";
  expect_path(function, "dir", directory);
  const MappedFile file(function, concat(directory, "/", kCacheFileName),
                        cache.pool()->residency().is_limited());
  return load_cache(cache, file.contents());
}

std::int64_t load_cache(PrefixCache& cache, const FileBytes& bytes) {
  BlockPool& pool = *cache.pool();
  pool.storage().memory().require_written(bytes.function);
  const BlockPool::Delivery delivery(pool);
  const KvFile file(bytes, kKind, pool.geometry());
  file.expect_checksums();
  PrefixSnapshot snapshot = read_tree(file, pool);
  std::vector<TensorSpec> tensors =
      row_tensors(pool, RowsOf::tiles, total_rows(snapshot.blocks), length(snapshot.blocks));
  for (const char* name :
       {"node_parents", "node_blocks", "node_sizes", "token_ids", "block_rows", "namespace_ends"}) {
    tensors.push_back({name, "I64", {length(file.vector_bytes(name, "I64")) / 8}});
  }
  tensors.push_back({"namespaces", "U8", {length(file.bytes("namespaces"))}});
  if (file.has_tensor(kPriorities)) {
    tensors.push_back({kPriorities, "I64", {length(snapshot.nodes)}});
  }
  file.expect_tensors(tensors);
  expect_numbers(file, pool, RowsOf::tiles);
  const std::int64_t most = cache.max_blocks().value_or(std::numeric_limits<std::int64_t>::max());
  keep_last_nodes(static_cast<std::size_t>(most), &snapshot);
  const std::size_t in_file = snapshot.blocks.size();
  std::vector<BlockRows> of_nodes(snapshot.nodes.size());
  const HeldBlocks held(pool, of_nodes);
  find_blocks(bytes, cache, &snapshot, &of_nodes);
  read_rows(file, pool, RowsOf::tiles, std::span(snapshot.blocks).first(in_file));
  confirm_uninterrupted();
  return cache.restore(snapshot);
}

}  // namespace quire
