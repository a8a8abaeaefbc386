#include "quire/io/table_file.h"

#include <algorithm>
#include <charconv>
#include <span>
#include <utility>
#include <vector>

#include "quire/base/interruption.h"
#include "quire/format/cache_format.h"
#include "quire/io/atomic_file.h"
#include "quire/io/kv_file.h"
#include "quire/io/kv_rows.h"
#include "quire/io/mapped_file.h"
#include "quire/kv/table/held_tables.h"

namespace quire {
namespace {

constexpr std::string_view kKind = "block_table";
constexpr const char* kPositions = "positions";
constexpr const char* kNextPosition = "quire.next_position";
constexpr const char* kOpenColumns = "quire.open_columns";
constexpr RowsOf kKinds[] = {RowsOf::tiles, RowsOf::open_blocks};

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

// Whether a file for this pool has planes of open blocks. Files of int8 and float8 pools without
// open blocks have none; in a pool that has, all columns of such a table are sealed.
bool has_open_planes(const KvFile& file, const BlockPool& pool) {
  if (pool.geometry().opens_blocks()) {
    return format_of(pool.geometry().dtype).is_sealed_by_block() || file.has_text(kOpenColumns) ||
           file.has_tensor("layers.0.k_open");
  }
  if (file.has_text(kOpenColumns)) {
    file.file().refuse(kOpenColumns, " \"", file.text(kOpenColumns),
                       "\", expected none: the pool has no open blocks (open_blocks=0), and what "
                       "is in full precision would have to be quantised");
  }
  return false;
}

std::span<const RowsOf> kinds_of_file(bool has_open) {
  return std::span(kKinds).first(has_open ? 2 : 1);
}

std::vector<TensorSpec> row_tensors(const BlockPool& pool, const TableLayout& layout,
                                    std::span<const RowsOf> kinds) {
  const std::int64_t block_size = pool.geometry().block_size;
  const std::int64_t tokens = layout.open_tokens(block_size);
  const std::int64_t blocks = layout.open_blocks(block_size);
  std::vector<TensorSpec> tensors;
  for (const RowsOf kind : kinds) {
    const bool is_open = kind == RowsOf::open_blocks;
    for (TensorSpec& spec :
         row_tensors(pool, kind, is_open ? tokens : layout.stored_tokens(block_size) - tokens,
                     is_open ? blocks : layout.num_blocks() - blocks)) {
      tensors.push_back(std::move(spec));
    }
  }
  return tensors;
}

// What the file says, and has room for: its rows, and its positions.
TableLayout read_layout(const KvFile& file, const BlockPool& pool) {
  const std::int64_t block_size = pool.geometry().block_size;
  TableLayout layout;
  layout.num_tokens = file.number("quire.num_tokens");
  layout.column_ranges = read_ranges(file, "quire.blocks");
  layout.next_position = layout.num_tokens;
  const bool has_open = has_open_planes(file, pool);
  if (has_open) layout.num_open = file.number(kOpenColumns);
  expect_no_flaw(file.file(), layout, block_size);
  const std::span<const RowsOf> kinds = kinds_of_file(has_open);
  std::vector<TensorSpec> tensors = row_tensors(pool, layout, kinds);
  if (file.has_tensor(kPositions)) tensors.push_back({kPositions, "I64", {layout.num_tokens}});
  file.expect_tensors(tensors);
  file.expect_checksums();
  for (const RowsOf kind : kinds) expect_numbers(file, pool, kind);
  if (file.has_tensor(kPositions)) layout.positions = file.integers(kPositions);
  layout.next_position =
      file.has_text(kNextPosition) ? file.number(kNextPosition) : next_of(layout);
  expect_no_flaw(file.file(), layout, block_size);
  return layout;
}

// The blocks of a held table that are there, of each kind, with the rows that are.
struct TableRows {
  std::vector<BlockRows> tiles, open;

  TableRows(const BlockPool& pool, const HeldTables& held) {
    std::vector<std::int32_t> ids(held.max_blocks());
    std::int32_t num_tokens = 0;
    held.pack(kHole, ids.data(), &num_tokens);
    const auto num_blocks = static_cast<std::int32_t>(pool.geometry().num_blocks);
    const std::int64_t block_size = pool.geometry().block_size;
    std::int64_t tokens = num_tokens;
    for (const std::int32_t id : ids) {
      const std::int64_t rows = std::min(tokens, block_size);
      tokens -= block_size;
      if (id == kHole) continue;
      if (id < num_blocks) {
        tiles.push_back({id, rows});
      } else {
        open.push_back({id - num_blocks, rows});
      }
    }
  }
  const std::vector<BlockRows>& of(RowsOf kind) const {
    return kind == RowsOf::tiles ? tiles : open;
  }
};

[[noreturn]] void refuse_room(const FileBytes& file, const BlockPool& pool,
                              const TableLayout& layout) {
  const PoolStats stats = pool.stats();
  const std::int64_t open = layout.open_blocks(pool.geometry().block_size);
  if (pool.open_room().is_limited() && layout.num_blocks() <= stats.free + stats.cached) {
    file.refuse<OutOfBlocks>(counted(open, "open block"), ", expected at most the ",
                             pool.open_room().left(), " that resident_bytes has room for");
  }
  file.refuse<OutOfBlocks>(counted(layout.num_tokens, "token"), ", which take ",
                           counted(layout.num_blocks(), "block"), ", expected at most the ",
                           stats.free, " free",
                           stats.cached > 0 ? concat(" and ", stats.cached, " cached") : "");
}

}  // namespace

void save_table(const BlockTable& table, const std::string& path) {
  constexpr std::string_view function = "BlockTable.save";
  const BlockPool& pool = *table.pool();
  const KvGeometry& geometry = pool.geometry();
  if (table.is_freed()) {
    raise<ValueError>(place(function, "table"), "got a freed one, expected one in use");
  }
  pool.storage().memory().require_written(function);
  const BlockPool::Delivery delivery(*table.pool());
  AtomicFile file(function, path);
  {
    const BlockTable* const tables[] = {&table};
    const HeldTables held(function, tables);
    const TableLayout layout = held.layout(0);
    if (const std::string flaw = layout.flaw(geometry.block_size); !flaw.empty()) {
      raise<ValueError>(place(function, "table"), "got ", flaw);
    }
    Metadata metadata = kv_metadata(kKind, geometry);
    metadata.emplace_back("quire.num_tokens", concat(layout.num_tokens));
    metadata.emplace_back("quire.blocks", ranges_text(layout.column_ranges));
    if (geometry.opens_blocks()) {
      metadata.emplace_back(kOpenColumns, concat(layout.num_open));
    }
    if (layout.next_position != next_of(layout)) {
      metadata.emplace_back(kNextPosition, concat(layout.next_position));
    }
    std::vector<TensorSpec> tensors = row_tensors(pool, layout, kKinds);
    const bool has_positions = !layout.positions.empty();
    if (has_positions) tensors.insert(tensors.begin(), {kPositions, "I64", {layout.num_tokens}});
    SafetensorsWriter writer(file, std::move(metadata), std::move(tensors));
    if (has_positions) writer.write(0, layout.positions);
    std::size_t next = has_positions ? 1 : 0;
    const TableRows rows(pool, held);
    for (const RowsOf kind : kKinds) {
      next = write_rows("BlockTable.save: table", writer, next, pool, kind, rows.of(kind),
                        [](std::size_t) {});
    }
    writer.finish();
  }
  file.commit();
}

std::shared_ptr<BlockTable> load_table(const std::shared_ptr<BlockPool>& pool,
                                       const std::string& path) {
  const MappedFile file("load_table", path, pool->residency().is_limited());
  return load_table(pool, file.contents());
}

std::shared_ptr<BlockTable> load_table(const std::shared_ptr<BlockPool>& pool,
                                       const FileBytes& bytes) {
  pool->home().require();
  pool->storage().memory().require_written(bytes.function);
  const BlockPool::Delivery delivery(*pool);
  const KvFile file(bytes, kKind, pool->geometry());
  // All is checked before a block is taken, for which a cached one may have to go.
  const TableLayout layout = read_layout(file, *pool);
  std::shared_ptr<BlockTable> table;
  try {
    table = std::make_shared<BlockTable>(pool, layout);
  } catch (const OutOfBlocks&) {
    refuse_room(bytes, *pool, layout);
  }
  const BlockTable* const tables[] = {table.get()};
  const TableRows rows(*pool, HeldTables(bytes.function, tables));
  for (const RowsOf kind : kinds_of_file(has_open_planes(file, *pool))) {
    read_rows(file, *pool, kind, rows.of(kind));
  }
  confirm_uninterrupted();
  return table;
}

}  // namespace quire
