#include "quire/ops/attention/validate.h"

#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quire/base/check.h"
#include "quire/format/cache_format.h"
#include "quire/ops/argument_checker.h"
#include "quire/ops/attention/visible_keys.h"
#include "quire/ops/cache/cache_arguments.h"
#include "quire/ops/cache/cache_scales.h"

namespace quire {
namespace {

// The longest sequence. Strides of 0 make arrays of any length; this keeps what is computed from
// lengths within 64 bits.
constexpr std::int64_t kMostTokens = std::int64_t{1} << 40;

// The largest |scale|: with log2(e) it still is a float32.
constexpr double kMostScale = 2e38;

// In a block table: the block of tokens that were dropped.
constexpr std::int64_t kHole = -1;

using Checker = ArgumentChecker;

void check_cu_seqlens(const Checker& check, const IndexView& cu, std::int64_t num_seqs,
                      std::int64_t num_tokens) {
  if (cu.at(0) != 0) check.fail<ValueError>("cu_seqlens_q", "got ", cu.at(0), " at 0, expected 0");
  for (std::int64_t seq = 0; seq < num_seqs; ++seq) {
    if (cu.at(seq + 1) < cu.at(seq)) {
      check.fail<ValueError>("cu_seqlens_q", "got ", cu.at(seq + 1), " at ", seq + 1,
                             ", expected at least ", cu.at(seq), ", the entry before it");
    }
  }
  if (cu.at(num_seqs) != num_tokens) {
    check.fail<ValueError>("cu_seqlens_q", "got ", cu.at(num_seqs), " at ", num_seqs, ", expected ",
                           num_tokens, ", the rows of q");
  }
}

// Of as many bools as the numbers of queries squared; the rows of each sequence are right.
void check_tree(const Checker& check, const PagedAttentionArgs& args, std::int64_t num_seqs) {
  if (!args.tree_mask) return;
  const std::int64_t given = std::ssize(*args.tree_mask);
  std::int64_t wanted = 0;
  for (std::int64_t seq = 0; seq < num_seqs; ++seq) {
    const QueryRows rows = query_rows(args, seq);
    const std::int64_t n = rows.end - rows.begin;
    std::int64_t square = 0;
    if (!__builtin_mul_overflow(n, n, &square) &&
        !__builtin_add_overflow(wanted, square, &wanted)) {
      continue;
    }
    check.fail<ValueError>("tree_mask", "got ", counted(n, "query"), " at sequence ", seq,
                           ", expected fewer");
  }
  if (given != wanted) {
    check.fail<ValueError>("tree_mask", "got ", counted(given, "bool"), ", expected ", wanted,
                           ", the squares of the sequences' numbers of queries");
  }
}

// Those of one sequence's keys.
void check_positions(const Checker& check, const IndexView& positions, std::int64_t seq,
                     std::int64_t seq_len) {
  if (seq_len > positions.shape[1]) {
    check.fail<ValueError>("key_positions", "got ", counted(positions.shape[1], "column"),
                           ", expected ", seq_len, ", the tokens of sequence ", seq);
  }
  std::int64_t least = 0;
  for (std::int64_t key = 0; key < seq_len; ++key) {
    const std::int64_t position = positions.at(seq, key);
    if (position < least || position > kMostTokens) {
      check.fail<ValueError>("key_positions", "got ", position, " at sequence ", seq, ", column ",
                             key, ", expected ", least, " to ", kMostTokens,
                             key > 0 ? ", as positions grow" : "");
    }
    least = position + 1;
  }
}

// What follows the range of ids or slots.
std::string open_text(std::int64_t num_open) {
  if (num_open == 0) return "";
  return concat(", of which the last ", counted(num_open, "block"), num_open == 1 ? " is" : " are",
                " open");
}

// Whether a query of the sequence sees one of `count` keys from `first` on.
bool is_seen(const PagedAttentionArgs& args, const QueryRows& rows, std::int64_t first,
             std::int64_t count) {
  if (rows.begin == rows.end) return false;
  const VisibleKeys keys = visible_keys(args, rows, 0, rows.end - rows.begin);
  return first < keys.sink_tokens.end ||
         (first < keys.window.end && first + count > keys.window.begin);
}

void check_sequence(const Checker& check, const PagedAttentionArgs& args,
                    const PagedAttentionSizes& sizes, std::int64_t seq) {
  const std::int64_t seq_len = args.seq_lens.at(seq);
  const std::int64_t max_blocks = args.block_tables.shape[1];
  const std::int64_t used_blocks = seq_len / sizes.block_size + (seq_len % sizes.block_size != 0);
  const std::int64_t room =
      max_blocks > kMostTokens / sizes.block_size ? kMostTokens : max_blocks * sizes.block_size;
  if (seq_len < 0 || seq_len > room) {
    check.fail<ValueError>(args.names.seq_lens, "got ", seq_len, " at sequence ", seq,
                           ", expected 0 to ", room, " (", counted(max_blocks, "block"), " of ",
                           counted(sizes.block_size, "token"), ")");
  }
  const QueryRows rows = query_rows(args, seq);
  if (args.key_positions) check_positions(check, *args.key_positions, seq, seq_len);
  for (std::int64_t column = 0; column < used_blocks; ++column) {
    const std::int64_t block = args.block_tables.at(seq, column);
    if (block >= 0 && (block < sizes.num_blocks || block - sizes.num_blocks < sizes.num_open))
      continue;
    if (block == kHole && !is_seen(args, rows, column * sizes.block_size, sizes.block_size))
      continue;
    check.fail<IndexError>(args.names.block_tables, "got ", block, " at sequence ", seq,
                           ", column ", column, ", expected 0 to ",
                           sizes.num_blocks + sizes.num_open - 1, open_text(sizes.num_open),
                           block == kHole ? ", as a query sees this block" : "");
  }
}

void check_options(const Checker& check, const PagedAttentionArgs& args, std::int64_t num_heads) {
  if (args.scale && !(std::abs(*args.scale) <= kMostScale)) {
    check.fail<ValueError>("scale", "got ", *args.scale, ", expected a finite number, at most ",
                           kMostScale, " in magnitude");
  }
  if (args.softcap && !(std::isfinite(*args.softcap) && *args.softcap > 0)) {
    check.fail<ValueError>("softcap", "got ", *args.softcap, ", expected a finite number > 0");
  }
  if (args.sliding_window && *args.sliding_window < 1) {
    check.fail<ValueError>("sliding_window", "got ", *args.sliding_window, ", expected >= 1");
  }
  if (args.window_sides) {
    const auto [left, right] = *args.window_sides;
    if (args.sliding_window) {
      check.fail<ValueError>("sliding_window", "got both a number of keys and two sides, expected ",
                             "one of them");
    }
    if (left < -1 || right < -1) {
      check.fail<ValueError>("sliding_window", "got (", left, ", ", right,
                             "), expected numbers of keys, or -1 for all");
    }
  }
  if (args.num_sink_tokens < 0) {
    check.fail<ValueError>("num_sink_tokens", "got ", args.num_sink_tokens, ", expected >= 0");
  }
  if (args.alibi_slopes) check.per_head("alibi_slopes", *args.alibi_slopes, num_heads, false);
  if (args.sinks) check.per_head("sinks", *args.sinks, num_heads, true);
}

// Rows of values and a cache for them, or neither; then nothing else of values, and a cache whose
// keys can be read as values.
void check_values_of(const Checker& check, const WriteKvArgs& args) {
  if (args.v.has_value() != args.v_cache.has_value()) {
    check.fail<TypeError>(args.v ? args.names.v_cache : "v", "got None, expected an array as ",
                          args.v ? "v" : args.names.v_cache,
                          " is one (None for both: values are the beginnings of their keys)");
  }
  if (args.v) return;
  if (args.v_scale) {
    check.fail<ValueError>("v_scale",
                           "got one without v_cache, expected None: a value has the "
                           "scale of its key");
  }
  if (args.v_open) {
    check.fail<ValueError>("v_open", "got open blocks without v_cache, expected None");
  }
  if (format_of(args.k_cache.dtype).scales == ScaleKind::grids) {
    check.fail<TypeError>("v", "got None with a k_cache of ", name_of(args.k_cache.dtype),
                          ", expected an array: its keys have a grid for each channel of a block, "
                          "its values one for each token");
  }
}

// What write_kv writes: each may be written, and lies apart from what is read and from the others.
// Caches of a pool interleave, so that two of these overlap for sure only where they begin
// together.
void check_written(const Checker& check, const WriteKvArgs& args) {
  struct Written {
    const char* name;
    const ArrayView* view;
  };
  Written all[6];
  int count = 0;
  const auto add = [&](const char* name, const ArrayView& view) { all[count++] = {name, &view}; };
  const ArgumentNames& names = args.names;
  add(names.k_cache, args.k_cache);
  if (args.v_cache) add(names.v_cache, *args.v_cache);
  if (args.k_scale && is_dynamic(*args.k_scale)) add(names.k_scale, *args.k_scale);
  if (args.v_scale && is_dynamic(*args.v_scale)) add(names.v_scale, *args.v_scale);
  if (args.k_open) add(names.k_open, *args.k_open);
  if (args.v_open) add(names.v_open, *args.v_open);
  for (const Written& one : std::span(all, static_cast<std::size_t>(count))) {
    check.written(one.name, *one.view);
    check.apart("k", args.k, one.name, *one.view);
    if (args.v) check.apart("v", *args.v, one.name, *one.view);
    check.apart("slot_mapping", args.slot_mapping, one.name, *one.view);
    for (const Written* other = all; other != &one; ++other) {
      if (one.view->data != other->view->data || is_empty(*one.view) || is_empty(*other->view))
        continue;
      check.fail<ValueError>(one.name, "got the memory of ", other->name,
                             ", expected memory of its own");
    }
  }
}

// Plain floats, or floats of 8 bits where keys are.
void check_query_dtype(const Checker& check, const PagedAttentionArgs& args) {
  if (!is_float8(args.q.dtype)) return check.plain_floats("q", args.q);
  if (is_float8(args.k_cache.dtype)) return;
  check.fail<TypeError>("q", "got ", name_of(args.q.dtype), " for keys of ",
                        name_of(args.k_cache.dtype), ", expected float32, float16 or bfloat16");
}

void check_inputs(const Checker& check, const PagedAttentionArgs& args) {
  const Length tokens = args.q.ndim == 3 ? Length(args.q.shape[0]) : std::nullopt;
  const ArgumentNames& names = args.names;
  const Length head_dim = names.caches_are_right
                              ? Length(args.k_cache.shape[3] * numbers_of(args.k_cache.dtype))
                              : std::nullopt;
  check.array("q", args.q, {tokens, std::nullopt, head_dim},
              head_dim ? "[T, Hq, D], D of the pool" : "[T, Hq, D]");
  check_query_dtype(check, args);
  const Length num_seqs = args.seq_lens.ndim == 1 ? Length(args.seq_lens.shape[0]) : std::nullopt;
  check.shape(names.seq_lens, args.seq_lens, {num_seqs}, "[B]");
  const CacheArguments caches = cache_arguments(args);
  const std::int64_t tail_dim = check_tail(check, caches, args.k_tail, args.q.shape[2]);
  check_caches(check, caches,
               {"q", args.q.shape[2] - tail_dim, "v_cache", std::nullopt, std::nullopt, num_seqs});
  const Length max_blocks =
      args.block_tables.ndim == 2 ? Length(args.block_tables.shape[1]) : std::nullopt;
  check.shape(names.block_tables, args.block_tables, {num_seqs, max_blocks},
              "[B, max_blocks], B as seq_lens");

  const PagedAttentionSizes sizes = sizes_of(args);
  if (sizes.num_heads % sizes.num_kv_heads != 0) {
    check.fail<ValueError>("q", "got ", counted(sizes.num_heads, "head"),
                           ", expected a multiple of the cache's ", sizes.num_kv_heads);
  }
  if (args.cu_seqlens_q) {
    check.shape("cu_seqlens_q", *args.cu_seqlens_q, {sizes.num_seqs + 1},
                "one entry more than sequences");
  } else if (sizes.num_tokens != sizes.num_seqs) {
    check.fail<ValueError>("q", "got ", counted(sizes.num_tokens, "row"), ", expected ",
                           sizes.num_seqs, ", one for each of ", names.seq_lens,
                           " (cu_seqlens_q gives other numbers)");
  }
  check_options(check, args, sizes.num_heads);
  if (args.causal_of_each && std::ssize(*args.causal_of_each) != sizes.num_seqs) {
    check.fail<ValueError>("causal", "got ", counted(std::ssize(*args.causal_of_each), "bool"),
                           ", expected ", sizes.num_seqs, ", one for each sequence");
  }
  if (args.key_positions) {
    const IndexView& positions = *args.key_positions;
    // of no token is legal where there are none
    const Length max_tokens = positions.ndim == 2 ? Length(positions.shape[1]) : std::nullopt;
    check.shape("key_positions", positions, {num_seqs, max_tokens},
                "[B, max_tokens], B as seq_lens");
  }
}

// What is written lies apart from all that is read.
void check_out(const Checker& check, const PagedAttentionArgs& args) {
  const ArgumentNames& names = args.names;
  const PagedAttentionSizes sizes = sizes_of(args);
  check.array("out", args.out, {sizes.num_tokens, sizes.num_heads, sizes.v_head_dim},
              "[T, Hq, Dv]");
  check.plain_floats("out", args.out);
  check.written("out", args.out);
  check.apart("out", args.out, "q", args.q);
  check.apart("out", args.out, names.k_cache, args.k_cache);
  check.apart("out", args.out, names.v_cache, args.v_cache);
  if (args.k_tail) check.apart("out", args.out, "k_tail", *args.k_tail);
  check.apart("out", args.out, names.block_tables, args.block_tables);
  check.apart("out", args.out, names.seq_lens, args.seq_lens);
  if (args.cu_seqlens_q) check.apart("out", args.out, "cu_seqlens_q", *args.cu_seqlens_q);
  if (args.key_positions) check.apart("out", args.out, "key_positions", *args.key_positions);
  if (args.alibi_slopes) check.apart("out", args.out, "alibi_slopes", *args.alibi_slopes);
  if (args.sinks) check.apart("out", args.out, "sinks", *args.sinks);
  if (args.k_scale) check.apart("out", args.out, names.k_scale, *args.k_scale);
  if (args.v_scale) check.apart("out", args.out, names.v_scale, *args.v_scale);
  if (args.k_open) check.apart("out", args.out, names.k_open, *args.k_open);
  if (args.v_open) check.apart("out", args.out, names.v_open, *args.v_open);
}

}  // namespace

void validate(const PagedAttentionArgs& args, std::string_view function) {
  const Checker check(function);
  check_inputs(check, args);
  validate_indices(args, function);
  check_out(check, args);
}

void validate_arrays(const PagedAttentionArgs& args, std::string_view function) {
  const Checker check(function);
  check_inputs(check, args);
  check_tree(check, args, sizes_of(args).num_seqs);
  check_out(check, args);
}

void validate_indices(const PagedAttentionArgs& args, std::string_view function) {
  const Checker check(function);
  const PagedAttentionSizes sizes = sizes_of(args);
  if (args.cu_seqlens_q) {
    check_cu_seqlens(check, *args.cu_seqlens_q, sizes.num_seqs, sizes.num_tokens);
  }
  check_tree(check, args, sizes.num_seqs);
  for (std::int64_t seq = 0; seq < sizes.num_seqs; ++seq) check_sequence(check, args, sizes, seq);
}

void validate(const WriteKvArgs& args, std::string_view function) {
  const Checker check(function);
  const Length rows = args.k.ndim == 3 ? Length(args.k.shape[0]) : std::nullopt;
  check.array("k", args.k, {rows, std::nullopt, std::nullopt}, "[n, Hkv, D]");
  check_values_of(check, args);
  Length v_head_dim;
  if (args.v) {
    check.array("v", *args.v, {rows, args.k.shape[1], std::nullopt},
                "[n, Hkv, Dv], n and Hkv as k");
    v_head_dim = args.v->shape[2];
  }
  check.plain_floats("k", args.k);
  if (args.v) check.plain_floats("v", *args.v);
  check_caches(check, cache_arguments(args),
               {"k", args.k.shape[2], "v", v_head_dim, args.k.shape[1]});
  check.shape("slot_mapping", args.slot_mapping, {rows}, "[n], n as k");
  check_written(check, args);

  const std::int64_t block_size = args.k_cache.shape[args.layout == Layout::NHD ? 1 : 2];
  const std::int64_t num_open = args.k_open ? args.k_open->shape[0] : 0;
  const std::int64_t num_slots = (args.k_cache.shape[0] + num_open) * block_size;
  for (std::int64_t row = 0; row < args.k.shape[0]; ++row) {
    const std::int64_t slot = args.slot_mapping.at(row);
    if (slot >= -1 && slot < num_slots) continue;
    check.fail<IndexError>("slot_mapping", "got ", slot, " at row ", row, ", expected 0 to ",
                           num_slots - 1, open_text(num_open), ", or -1 to skip the row");
  }
}

void validate(const MergeStatesArgs& args, std::string_view function) {
  const Checker check(function);
  const ArrayView& outs = args.outs;
  if (outs.ndim < 2) {
    check.fail<ValueError>("outs", "got shape ", shape_text(outs), ", expected [n, ..., Dv]");
  }
  // no partial result at all, or no row, is legal
  const std::vector<Length> shape(outs.shape.begin(), outs.shape.begin() + outs.ndim);
  const std::span<const Length> all = shape, rows = all.subspan(1, shape.size() - 2);
  check.array("outs", outs, all, "[n, ..., Dv]");
  check.plain_floats("outs", outs);
  check.strided_array("lses", args.lses, all.first(shape.size() - 1), "[n, ...], as outs");
  check.array("out", args.out, all.subspan(1), "[..., Dv], as outs");
  check.plain_floats("out", args.out);
  check.strided_array("lse", args.lse, rows, "[...], as outs");
  const auto check_float32 = [&](const char* argument, const ArrayView& view) {
    if (view.dtype == DType::float32) return;
    check.fail<TypeError>(argument, "got ", name_of(view.dtype), ", expected float32");
  };
  check_float32("lses", args.lses);
  check_float32("lse", args.lse);
  check.written("out", args.out);
  check.written("lse", args.lse);
  check.apart("out", args.out, "outs", outs);
  check.apart("out", args.out, "lses", args.lses);
  check.apart("lse", args.lse, "outs", outs);
  check.apart("lse", args.lse, "lses", args.lses);
  check.apart("lse", args.lse, "out", args.out);
}

}  // namespace quire
