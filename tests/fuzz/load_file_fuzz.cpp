// Any bytes as a file: loaded as a table and as a cache, of float16, and of quantised dtypes with
// open blocks, as they are and with their checksums made right, as a forger would. They are
// refused, or loaded; the pool's books are in order, a refusal leaves them as they were, and what
// was loaded can be used.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quire/io/cache_file.h"
#include "quire/io/safetensors_header.h"
#include "quire/io/safetensors_writer.h"
#include "quire/io/table_file.h"
#include "quire/io/xxh64.h"

namespace {

using namespace quire;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::abort();
}

// A pool and a cache of it, for all inputs, one after the other: new ones would take most of the
// time.
class Loader {
 public:
  explicit Loader(DType dtype, std::optional<std::int64_t> open_blocks = std::nullopt)
      : pool_(std::make_shared<BlockPool>(
            KvGeometry{.num_blocks = 6,
                       .block_size = 4,
                       .num_kv_heads = 1,
                       .head_dim = 2,
                       .v_head_dim = dtype == DType::int4 ? 2 : 1,  // which is even
                       .num_layers = 2,
                       .dtype = dtype,
                       .open_blocks = open_blocks})) {}

  void load(const FileBytes& file) {
    load_as_table(file);
    load_as_cache(file);
  }

 private:
  // Runs load(), which refuses the file or returns; a refusal changes nothing.
  template <class Load>
  void refuse_or(Load load) {
    const PoolStats before = pool_->stats();
    const auto require_untouched = [&] {
      const PoolStats after = pool_->stats();
      require(after.free == before.free && after.peak_used == before.peak_used &&
                  after.cached == before.cached && after.filled_tokens == before.filled_tokens &&
                  after.open_blocks == before.open_blocks,
              "a refusal changes nothing");
    };
    try {
      load();
    } catch (const ValueError&) {
      require_untouched();
    } catch (const OutOfBlocks&) {
      require_untouched();
    }
    pool_->check();
  }

  void load_as_table(const FileBytes& file) {
    std::shared_ptr<BlockTable> table;
    refuse_or([&] { table = load_table(pool_, file); });
    if (table != nullptr) {
      const std::vector<std::int32_t> blocks = table->blocks();
      const auto holes = std::count(blocks.begin(), blocks.end(), kHole);
      require(std::ssize(blocks) - holes == pool_->num_used(),
              "a block is a table's, a hole nobody's");
      require(table->num_tokens() - 4 * holes == pool_->stats().filled_tokens,
              "tokens are in blocks or were dropped");
      require(table->next_position() >= table->num_tokens(),
              "the next token comes after the others");
      if (holes == 0) gather(*table);
      if (table->num_tokens() > 0) table->truncate(table->num_tokens() / 16 * 4);
      const std::vector<std::int64_t> positions = table->positions();
      require(std::is_sorted(positions.begin(), positions.end()), "positions grow");
      if (pool_->num_free() > 2) table->extend(6);
      pool_->check();
      table.reset();
    }
    pool_->check();
    require(pool_->num_free() == 6 && pool_->stats().open_blocks == 0,
            "a table that goes has given its blocks back");
  }

  void gather(const BlockTable& table) const {
    std::vector<float> k(table.num_tokens() * 2), v(k.size());  // float16 takes less
    for (std::int64_t layer = 0; layer < 2; ++layer) {
      table.gather(layer, table.num_tokens(), k.data(), v.data());
      const std::int64_t believed = first_believed(table);
      const auto is_number = [](float x) { return std::isfinite(x); };
      require(std::all_of(k.begin() + 2 * believed, k.end(), is_number) &&
                  std::all_of(v.begin() + v_size() * believed, v.end(), is_number),
              "what attention reads without a look at it is finite");
    }
  }
  std::int64_t v_size() const { return pool_->geometry().v_head_dim; }

  // The first token from which on a file must have had finite numbers: of int4 any, else the first
  // in an open block. Scales of int8 and float8 are looked at whenever they are used.
  std::int64_t first_believed(const BlockTable& table) const {
    if (!pool_->geometry().opens_blocks()) return table.num_tokens();
    if (pool_->geometry().dtype == DType::int4) return 0;
    const std::vector<ExplainedBlock> columns = table.explain();
    const auto open = std::find_if(columns.begin(), columns.end(),
                                   [](const ExplainedBlock& column) { return column.is_open; });
    return std::min<std::int64_t>(4 * (open - columns.begin()), table.num_tokens());
  }

  void load_as_cache(const FileBytes& file) {
    bool loaded = false;
    refuse_or([&] {
      const std::int64_t added = load_cache(cache_, file);
      loaded = true;
      require(added == cache_.size() && added <= 5, "as many blocks as are said to be added");
    });
    if (!loaded) return require(cache_.size() == 0, "a refusal adds nothing");
    require(load_cache(cache_, file) == 0, "what is there already takes no room");
    const PrefixSnapshot snapshot = cache_.snapshot();
    for (const BlockRows& block : snapshot.blocks) pool_->release(std::vector{block.id});
    for (const std::string& space : snapshot.namespaces) {
      refuse_or([&] {
        const auto table = cache_.match(std::vector<std::int64_t>{1, 2, 3, 4, 5, 6}, space);
        require(table->num_tokens() < 6, "a match leaves a token");
        gather(*table);
      });
    }
    cache_.clear();
    pool_->check();
    require(pool_->num_free() == 6, "a cleared cache has given its blocks back");
  }

  const std::shared_ptr<BlockPool> pool_;
  PrefixCache cache_{pool_, 5};
};

void load(const std::vector<std::byte>& bytes) {
  static Loader loaders[] = {Loader(DType::float16), Loader(DType::int4), Loader(DType::int8, 2),
                             Loader(DType::float8_e4m3fn, 1)};
  const FileBytes file{"load", "input", bytes};
  for (Loader& loader : loaders) loader.load(file);
}

// Writes the checksums of the tensors, then that of the header, where they have their place.
bool make_checksums_right(std::vector<std::byte>* bytes) {
  SafetensorsHeader header;
  try {
    header = read_safetensors_header({"load", "input", *bytes});
  } catch (const ValueError&) {
    return false;
  }
  const auto put = [&](const std::string& key, std::uint64_t checksum) {
    const auto found = header.metadata.find(key);
    if (found == header.metadata.end() || found->second.text.size() != 16) return;
    std::memcpy(bytes->data() + found->second.offset, checksum_text(checksum).data(), 16);
  };
  for (const auto& [name, tensor] : header.tensors) {
    put(concat(kTensorChecksum, name), xxh64(tensor.bytes));
  }
  const auto own = header.metadata.find(kHeaderChecksum);
  if (own == header.metadata.end() || own->second.text.size() != 16) return true;
  std::memset(bytes->data() + own->second.offset, '0', 16);
  put(std::string(kHeaderChecksum), xxh64(header.bytes));
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  std::vector<std::byte> bytes(begin, begin + size);
  load(bytes);
  if (make_checksums_right(&bytes)) load(bytes);
  return 0;
}
