// The cases whose instructions benchmarks/instructions.sh counts: each runs once to grow what is
// kept between calls, then once more between two requests to callgrind. One thread, no environment.
//
//   instructions             runs them; under callgrind it writes a file of counts for each
//   instructions --built-by  prints what the counts depend on, apart from the source
#include <gnu/libc-version.h>
#include <valgrind/callgrind.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "quire/base/check.h"
#include "quire/cpu/select_kernels.h"
#include "quire/quire.h"

namespace quire {
namespace {

constexpr std::int64_t kBlockSize = 16;

// An owned array of random numbers of any dtype, on a cache line's boundary: counts depend on it.
class Array {
 public:
  Array(DType dtype, std::initializer_list<std::int64_t> shape) {
    std::size_t count = 1;
    for (const std::int64_t length : shape) count *= static_cast<std::size_t>(length);
    memory_.resize(count + 64 / sizeof(float));  // room for any dtype, and to begin on a boundary
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    view_ = contiguous_view(reinterpret_cast<void*>((address + 63) / 64 * 64), dtype, shape);
    std::mt19937 random(1);
    std::uniform_real_distribution<float> values(-1.0f, 1.0f);
    visit_dtype(dtype, [&](auto type) {
      auto* elements = reinterpret_cast<decltype(type)*>(view_.data);
      for (std::size_t i = 0; i < count; ++i) {
        elements[i] = from_float<decltype(type)>(values(random));
      }
    });
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  const ArrayView& view() const { return view_; }
  float* floats() const { return reinterpret_cast<float*>(view_.data); }

 private:
  std::vector<float> memory_;
  ArrayView view_;
};

// Runs `body` twice and has the instructions of the second run written down under `name`.
template <class Body>
void count(const std::string& name, Body body) {
  body();
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_TOGGLE_COLLECT;
  body();
  CALLGRIND_TOGGLE_COLLECT;
  CALLGRIND_STOP_INSTRUMENTATION;
  CALLGRIND_DUMP_STATS_AT(name.c_str());
}

struct AttentionCase {
  std::string name;
  DType dtype = DType::bfloat16;
  std::int64_t keys = 256;
  std::int64_t query_tokens = 1;
  std::int64_t group = 4;
  Implementation implementation = Implementation::fused;
};

void count_attention(const AttentionCase& c) {
  constexpr std::int64_t kKvHeads = 2, kDim = 64;
  const std::int64_t blocks = (c.keys + kBlockSize - 1) / kBlockSize;
  Array q(c.dtype, {c.query_tokens, kKvHeads * c.group, kDim});
  Array out(c.dtype, {c.query_tokens, kKvHeads * c.group, kDim});
  Array k(c.dtype, {blocks, kBlockSize, kKvHeads, kDim});
  Array v(c.dtype, {blocks, kBlockSize, kKvHeads, kDim});
  std::vector<std::int32_t> table(static_cast<std::size_t>(blocks));
  for (std::int64_t i = 0; i < blocks; ++i) table[i] = static_cast<std::int32_t>(blocks - 1 - i);
  const auto length = static_cast<std::int32_t>(c.keys);
  const std::int32_t cu_seqlens[] = {0, static_cast<std::int32_t>(c.query_tokens)};
  PagedAttentionArgs args;
  args.q = q.view();
  args.out = out.view();
  args.k_cache = k.view();
  args.v_cache = v.view();
  args.block_tables = contiguous_index_view(table.data(), {1, blocks});
  args.seq_lens = contiguous_index_view(&length, {1});
  args.cu_seqlens_q = contiguous_index_view(cu_seqlens, {2});
  const Execution how = default_execution(1);
  count(c.name, [&] { paged_attention(args, c.implementation, how); });
}

void count_attentions() {
  for (const DType dtype : kDTypes) {
    for (const std::int64_t group : {1, 4, 8}) {
      count_attention({.name = concat("decode/", name_of(dtype), "/group-", group),
                       .dtype = dtype,
                       .group = group});
    }
    count_attention({.name = concat("prefill/", name_of(dtype)),
                     .dtype = dtype,
                     .keys = 64,
                     .query_tokens = 64});
  }
  count_attention({.name = "decode/16-keys", .keys = 16});
  count_attention({.name = "verify/2-tokens", .query_tokens = 2});
  count_attention({.name = "verify/4-tokens", .query_tokens = 4});
  count_attention({.name = "verify/8-tokens", .query_tokens = 8});
  count_attention({.name = "chunked-prefill", .query_tokens = 64});
  count_attention({.name = "gather-then-attend", .implementation = Implementation::gather});
}

void count_merge() {
  Array outs(DType::float32, {3, 4, 8, 64}), out(DType::float32, {4, 8, 64});
  Array lses(DType::float32, {3, 4, 8}), lse(DType::float32, {4, 8});
  count("merge_states", [&] { merge_states({outs.view(), lses.view(), out.view(), lse.view()}); });
}

// Writing, and what tables do: 8 heads of 128, bfloat16.
class Tables {
 public:
  void count_all() {
    for (const std::int64_t tokens : {1, 64, 256}) {  // the last is streamed
      for (const DType dtype : {DType::bfloat16, DType::float32}) {
        Array k(dtype, {tokens, kHeads, kDim}), v(dtype, {tokens, kHeads, kDim});
        std::vector<std::int64_t> slots(static_cast<std::size_t>(tokens));
        for (std::int64_t i = 0; i < tokens; ++i) slots[i] = i;
        count(concat("write_kv/", name_of(dtype), "/", tokens), [&] { write(k, v, slots); });
        count(concat("append/", name_of(dtype), "/", tokens), [&] {
          BlockTable table(pool_);
          table.append(slots, [&](std::span<const std::int64_t> taken) { write(k, v, taken); });
        });
      }
    }
    BlockTable table(pool_);
    table.extend(1000);
    count("fork", [&] { table.fork(); });
    count("copy-on-write", [&] { table.fork()->extend(1); });
    count("extend-and-truncate", [&] {
      table.extend(64);
      table.truncate(1000);
    });
    Array k(DType::bfloat16, {1000, kHeads, kDim}), v(DType::bfloat16, {1000, kHeads, kDim});
    count("gather", [&] { table.gather(0, 1000, k.view().data, v.view().data); });
    const std::vector<const BlockTable*> held(8, &table);
    std::vector<std::int32_t> packed(8 * 63), lengths(8);
    count("pack_tables",
          [&] { HeldTables("pack_tables", held).pack(-1, packed.data(), lengths.data()); });
  }

 private:
  static constexpr std::int64_t kHeads = 8, kDim = 128;

  void write(const Array& k, const Array& v, std::span<const std::int64_t> slots) {
    const auto rows = static_cast<std::int64_t>(slots.size());
    write_kv({k.view(), v.view(), pool_->storage().k_cache(0), pool_->storage().v_cache(0),
              contiguous_index_view(slots.data(), {rows}), Layout::NHD},
             how_);
  }

  const Execution how_ = default_execution(1);
  const std::shared_ptr<BlockPool> pool_ =
      std::make_shared<BlockPool>(KvGeometry{.num_blocks = 128,
                                             .block_size = kBlockSize,
                                             .num_kv_heads = kHeads,
                                             .head_dim = kDim,
                                             .v_head_dim = kDim,
                                             .num_layers = 1,
                                             .dtype = DType::bfloat16});
};

}  // namespace
}  // namespace quire

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--built-by") == 0) {
    std::printf("compiler %s, glibc %s, instruction set %s\n", __VERSION__, gnu_get_libc_version(),
                quire::selected_kernels().cache->instruction_set);
    return 0;
  }
  quire::count_attentions();
  quire::count_merge();
  quire::Tables().count_all();
}
