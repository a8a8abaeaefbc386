#include "quire/io/table_file.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "quire/io/atomic_file.h"
#include "quire/io/kv_file.h"
#include "quire/io/kv_rows.h"
#include "quire/io/mapped_file.h"

namespace quire {
namespace {

constexpr std::string_view kKind = "block_table";

std::int64_t blocks_of(std::int64_t tokens, std::int64_t block_size) {
  return tokens / block_size + (tokens % block_size != 0);
}

std::string ranges_text(std::int64_t blocks) { return blocks == 0 ? "" : concat("0:", blocks); }

// The blocks, all rows of each but of the last, which has what is left of the tokens.
std::vector<BlockRows> rows_of(std::span<const std::int32_t> blocks, std::int64_t tokens,
                               std::int64_t block_size) {
  std::vector<BlockRows> rows;
  for (const std::int32_t block : blocks) {
    rows.push_back({block, std::min(tokens, block_size)});
    tokens -= rows.back().rows;
  }
  return rows;
}

[[noreturn]] void refuse_room(const FileBytes& file, const BlockPool& pool, std::int64_t tokens) {
  const PoolStats stats = pool.stats();
  file.refuse<OutOfBlocks>(tokens, " tokens, which take ",
                           blocks_of(tokens, pool.geometry().block_size),
                           " blocks, expected at most the ", stats.free, " free",
                           stats.cached > 0 ? concat(" and ", stats.cached, " cached") : "");
}

}  // namespace

void save_table(const BlockTable& table, const std::string& path) {
  constexpr std::string_view function = "BlockTable.save";
  const KvStorage& storage = table.pool()->storage();
  const KvGeometry& geometry = storage.geometry();
  if (table.is_freed()) {
    raise<ValueError>(place(function, "table"), "got a freed one, expected one in use");
  }
  AtomicFile file(function, path);
  {
    const BlockTable* const tables[] = {&table};
    const HeldTables held(function, tables);
    std::vector<std::int32_t> blocks(held.max_blocks());
    std::int32_t tokens = 0;
    held.pack(-1, blocks.data(), &tokens);
    Metadata metadata = kv_metadata(kKind, geometry);
    metadata.emplace_back("quire.num_tokens", concat(tokens));
    metadata.emplace_back("quire.blocks", ranges_text(held.max_blocks()));
    SafetensorsWriter writer(file, std::move(metadata), row_tensors(storage, tokens));
    write_rows(writer, 0, storage, rows_of(blocks, tokens, geometry.block_size),
               [](std::size_t) {});
    writer.finish();
  }
  file.commit();
}

std::shared_ptr<BlockTable> load_table(const std::shared_ptr<BlockPool>& pool,
                                       const std::string& path) {
  const MappedFile file("load_table", path);
  return load_table(pool, file.contents());
}

std::shared_ptr<BlockTable> load_table(const std::shared_ptr<BlockPool>& pool,
                                       const FileBytes& bytes) {
  const KvStorage& storage = pool->storage();
  const KvGeometry& geometry = storage.geometry();
  const KvFile file(bytes, kKind, geometry);
  const std::int64_t tokens = file.number("quire.num_tokens");
  const std::int64_t num_blocks = blocks_of(tokens, geometry.block_size);
  if (const std::string& blocks = file.text("quire.blocks"); blocks != ranges_text(num_blocks)) {
    bytes.refuse("quire.blocks \"", blocks, "\", expected all of them, \"", ranges_text(num_blocks),
                 "\"");
  }
  file.expect_tensors(row_tensors(storage, tokens));
  // Before a block is taken, for which a cached one may have to go.
  file.expect_checksums();
  if (num_blocks > geometry.num_blocks) refuse_room(bytes, *pool, tokens);

  auto table = std::make_shared<BlockTable>(pool);
  std::vector<std::int64_t> slots(tokens);
  try {
    table->append(slots, [&](std::span<const std::int64_t> taken) {
      std::vector<std::int32_t> blocks;
      for (std::int64_t i = 0; i < tokens; i += geometry.block_size) {
        blocks.push_back(static_cast<std::int32_t>(taken[i] / geometry.block_size));
      }
      read_rows(file, storage, rows_of(blocks, tokens, geometry.block_size));
    });
  } catch (const OutOfBlocks&) {
    refuse_room(bytes, *pool, tokens);
  }
  return table;
}

}  // namespace quire
