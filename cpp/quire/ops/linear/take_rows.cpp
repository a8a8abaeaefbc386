#include "quire/ops/linear/take_rows.h"

#include <vector>

#include "quire/base/float_mode.h"
#include "quire/base/interruption.h"
#include "quire/ops/argument_checker.h"

namespace quire {
namespace {

void check_taking(const ArgumentChecker& check, std::int64_t num_rows, std::int64_t num_columns,
                  std::span<const std::int64_t> ids, const ArrayView& out) {
  const auto count = static_cast<std::int64_t>(ids.size());
  check.array("out", out, {count, num_columns}, "T, K");
  check.plain_floats("out", out);
  check.written("out", out);
  for (std::size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] >= 0 && ids[t] < num_rows) continue;
    check.fail<IndexError>("ids", "got ", ids[t], " at [", t, "], expected 0 to ", num_rows - 1);
  }
}

template <class To, class From>
void copy_row(const From* from, std::int64_t count, std::byte* to) {
  auto* const numbers = reinterpret_cast<To*>(to);
  for (std::int64_t k = 0; k < count; ++k) numbers[k] = from_float<To>(to_float(from[k]));
}

}  // namespace

void take_rows(const Weight& weight, std::span<const std::int64_t> ids, const ArrayView& out,
               std::string_view function) {
  const DefaultFloatMode mode;
  check_taking(ArgumentChecker(function), weight.num_rows(), weight.num_columns(), ids, out);
  std::vector<float> row(static_cast<std::size_t>(weight.num_columns()));
  for (std::size_t t = 0; t < ids.size(); ++t) {
    check_interruption();
    weight.unpack_row(ids[t], row.data());
    visit_dtype(out.dtype, [&](auto to) {
      copy_row<decltype(to)>(row.data(), weight.num_columns(), out.at(t));
    });
  }
}

void take_rows(const ArrayView& w, std::span<const std::int64_t> ids, const ArrayView& out,
               std::string_view function) {
  const DefaultFloatMode mode;
  const ArgumentChecker check(function);
  check.array("w", w, {std::nullopt, std::nullopt}, "N, K");
  check.plain_floats("w", w);
  check_taking(check, w.shape[0], w.shape[1], ids, out);
  check.apart("out", out, "w", w);
  visit_dtype(w.dtype, [&](auto from) {
    using From = decltype(from);
    visit_dtype(out.dtype, [&](auto to) {
      for (std::size_t t = 0; t < ids.size(); ++t) {
        check_interruption();
        copy_row<decltype(to)>(reinterpret_cast<const From*>(w.at(ids[t])), w.shape[1], out.at(t));
      }
    });
  });
}

}  // namespace quire
