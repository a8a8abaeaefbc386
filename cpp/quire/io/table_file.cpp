#include "quire/io/table_file.h"

#include <algorithm>
#include <charconv>
#include <utility>
#include <vector>

#include "quire/io/atomic_file.h"
#include "quire/io/kv_file.h"
#include "quire/io/kv_rows.h"
#include "quire/io/mapped_file.h"

namespace quire {
namespace {

constexpr std::string_view kKind = "block_table";
constexpr const char* kPositions = "positions";
constexpr const char* kNextPosition = "quire.next_position";

std::string ranges_text(const std::vector<TableLayout::Range>& ranges) {
  std::string text;
  for (const auto& [begin, end] : ranges) text += concat(text.empty() ? "" : ",", begin, ":", end);
  return text;
}

std::vector<TableLayout::Range> read_ranges(const KvFile& file, std::string_view key) {
  const std::string& text = file.text(key);
  const char* at = text.data();
  const char* const end = at + text.size();
  std::vector<TableLayout::Range> ranges;
  while (at < end) {
    auto& range = ranges.emplace_back();
    for (std::int64_t* number : {&range.begin, &range.end}) {
      at = std::from_chars(at, end, *number).ptr;
      at += at < end;  // whatever stands there, as what follows tells
    }
  }
  if (ranges_text(ranges) != text) {
    file.file().refuse(key, " \"", text, "\", expected ranges such as \"0:1,3:7\"");
  }
  return ranges;
}

// Of the next token, where nothing says otherwise: after the last.
std::int64_t next_of(const TableLayout& layout) {
  return layout.positions.empty() ? layout.num_tokens : layout.positions.back() + 1;
}

void expect_no_flaw(const FileBytes& file, const TableLayout& layout, std::int64_t block_size) {
  if (const std::string flaw = layout.flaw(block_size); !flaw.empty()) file.refuse(flaw);
}

// What the file says, and has room for: its rows, and its positions.
TableLayout read_layout(const KvFile& file, const KvStorage& storage) {
  const std::int64_t block_size = storage.geometry().block_size;
  TableLayout layout;
  layout.num_tokens = file.number("quire.num_tokens");
  layout.column_ranges = read_ranges(file, "quire.blocks");
  layout.next_position = layout.num_tokens;
  expect_no_flaw(file.file(), layout, block_size);
  std::vector<TensorSpec> tensors = row_tensors(storage, layout.stored_tokens(block_size));
  if (file.has_tensor(kPositions)) tensors.push_back({kPositions, "I64", {layout.num_tokens}});
  file.expect_tensors(tensors);
  file.expect_checksums();
  if (file.has_tensor(kPositions)) layout.positions = file.integers(kPositions);
  layout.next_position =
      file.has_text(kNextPosition) ? file.number(kNextPosition) : next_of(layout);
  expect_no_flaw(file.file(), layout, block_size);
  return layout;
}

// The blocks of a table that are there, with the rows that are.
std::vector<BlockRows> rows_of(std::span<const std::int32_t> blocks, std::int64_t tokens,
                               std::int64_t block_size) {
  std::vector<BlockRows> rows;
  for (const std::int32_t block : blocks) {
    if (block != kHole) rows.push_back({block, std::min(tokens, block_size)});
    tokens -= block_size;
  }
  return rows;
}

[[noreturn]] void refuse_room(const FileBytes& file, const BlockPool& pool,
                              const TableLayout& layout) {
  const PoolStats stats = pool.stats();
  file.refuse<OutOfBlocks>(layout.num_tokens, " tokens, which take ", layout.num_blocks(),
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
  require_rows("BlockTable.save: table", geometry);
  storage.memory().require_written(function);
  const BlockPool::Delivery delivery(*table.pool());
  AtomicFile file(function, path);
  {
    const BlockTable* const tables[] = {&table};
    const HeldTables held(function, tables);
    const TableLayout layout = held.layout(0);
    if (const std::string flaw = layout.flaw(geometry.block_size); !flaw.empty()) {
      raise<ValueError>(place(function, "table"), "got ", flaw);
    }
    std::vector<std::int32_t> blocks(held.max_blocks());
    std::int32_t tokens = 0;
    held.pack(kHole, blocks.data(), &tokens);

    Metadata metadata = kv_metadata(kKind, geometry);
    metadata.emplace_back("quire.num_tokens", concat(tokens));
    metadata.emplace_back("quire.blocks", ranges_text(layout.column_ranges));
    if (layout.next_position != next_of(layout)) {
      metadata.emplace_back(kNextPosition, concat(layout.next_position));
    }
    std::vector<TensorSpec> tensors;
    if (!layout.positions.empty()) tensors.push_back({kPositions, "I64", {tokens}});
    const std::size_t first_row_tensor = tensors.size();
    for (TensorSpec& spec : row_tensors(storage, layout.stored_tokens(geometry.block_size))) {
      tensors.push_back(std::move(spec));
    }
    SafetensorsWriter writer(file, std::move(metadata), std::move(tensors));
    if (!layout.positions.empty()) writer.write(0, layout.positions);
    write_rows(writer, first_row_tensor, *table.pool(),
               rows_of(blocks, tokens, geometry.block_size), [](std::size_t) {});
    writer.finish();
  }
  file.commit();
}

std::shared_ptr<BlockTable> load_table(const std::shared_ptr<BlockPool>& pool,
                                       const std::string& path) {
  const MappedFile file("load_table", path, pool->residency() != nullptr);
  return load_table(pool, file.contents());
}

std::shared_ptr<BlockTable> load_table(const std::shared_ptr<BlockPool>& pool,
                                       const FileBytes& bytes) {
  const KvStorage& storage = pool->storage();
  require_rows("load_table: pool", storage.geometry());
  storage.memory().require_written(bytes.function);
  const BlockPool::Delivery delivery(*pool);
  const KvFile file(bytes, kKind, storage.geometry());
  // All is checked before a block is taken, for which a cached one may have to go.
  const TableLayout layout = read_layout(file, storage);
  std::shared_ptr<BlockTable> table;
  try {
    table = std::make_shared<BlockTable>(pool, layout);
  } catch (const OutOfBlocks&) {
    refuse_room(bytes, *pool, layout);
  }
  read_rows(file, *pool,
            rows_of(table->blocks(), layout.num_tokens, storage.geometry().block_size));
  return table;
}

}  // namespace quire
