#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings.h"
#include "bound_class.h"
#include "define.h"
#include "gil.h"
#include "numpy_view.h"
#include "prefix_cache_docs.h"
#include "quire/base/check.h"
#include "quire/kv/prefix/prefix_cache.h"
#include "token_ids.h"

namespace quire::python {
namespace {

namespace py = pybind11;

using Ids = std::vector<std::int64_t>;

std::shared_ptr<PrefixCache> new_cache(py::handle pool, py::handle max_blocks) {
  auto shared = object_of<BlockPool>({"PrefixCache", "pool"}, pool);
  const auto most = to_optional_int({"PrefixCache", "max_blocks"}, max_blocks);
  return std::make_shared<PrefixCache>(std::move(shared), most);
}

PrefixWindow to_window(const char* function, py::handle size, py::handle num_sink_tokens) {
  PrefixWindow window;
  if (const auto given = to_optional_int({function, "sliding_window"}, size)) {
    if (*given < 1) {
      raise<ValueError>(place(function, "sliding_window"), "got ", *given, ", expected >= 1");
    }
    window.size = *given;
  }
  window.num_sink_tokens = to_int({function, "num_sink_tokens"}, num_sink_tokens);
  return window;
}

std::shared_ptr<BlockTable> match(PrefixCache& cache, py::handle token_ids, py::handle space,
                                  py::handle sliding_window, py::handle num_sink_tokens) {
  constexpr const char* function = "PrefixCache.match";
  const Ids ids = to_token_ids({function, "token_ids"}, token_ids);
  const std::string name = to_string({function, "namespace"}, space);
  const PrefixWindow window = to_window(function, sliding_window, num_sink_tokens);
  const WithoutGil unlocked;
  return cache.match(ids, name, window);
}

std::int64_t peek(const PrefixCache& cache, py::handle token_ids, py::handle space,
                  py::handle sliding_window, py::handle num_sink_tokens) {
  constexpr const char* function = "PrefixCache.peek";
  const Ids ids = to_token_ids({function, "token_ids"}, token_ids);
  const std::string name = to_string({function, "namespace"}, space);
  const PrefixWindow window = to_window(function, sliding_window, num_sink_tokens);
  const WithoutGil unlocked;
  return cache.peek(ids, name, window);
}

void insert(PrefixCache& cache, py::handle token_ids, py::handle table, py::handle space,
            py::handle priority) {
  const Ids ids = to_token_ids({"PrefixCache.insert", "token_ids"}, token_ids);
  const auto inserted = object_of<BlockTable>({"PrefixCache.insert", "table"}, table);
  const std::string name = to_string({"PrefixCache.insert", "namespace"}, space);
  const std::int64_t rank = to_int({"PrefixCache.insert", "priority"}, priority);
  const WithoutGil unlocked;
  cache.insert(ids, *inserted, name, rank);
}

std::int64_t pin(PrefixCache& cache, py::handle token_ids, py::handle space) {
  const Ids ids = to_token_ids({"PrefixCache.pin", "token_ids"}, token_ids);
  const std::string name = to_string({"PrefixCache.pin", "namespace"}, space);
  const WithoutGil unlocked;
  return cache.pin(ids, name);
}

void unpin(PrefixCache& cache, py::handle token_ids, py::handle space) {
  const Ids ids = to_token_ids({"PrefixCache.unpin", "token_ids"}, token_ids);
  const std::string name = to_string({"PrefixCache.unpin", "namespace"}, space);
  const WithoutGil unlocked;
  cache.unpin(ids, name);
}

std::int64_t evict(PrefixCache& cache, py::handle num_blocks) {
  const std::int64_t count = to_int({"PrefixCache.evict", "num_blocks"}, num_blocks);
  const WithoutGil unlocked;
  return cache.evict(count);
}

py::dict misses_by_reason(const PrefixCacheStats& stats) {
  const PrefixCacheStats::Misses& misses = stats.misses_by_reason;
  py::dict reasons;
  reasons["cold"] = misses.cold;
  reasons["short"] = misses.short_;
  reasons["evicted"] = misses.evicted;
  reasons["other_namespace"] = misses.other_namespace;
  reasons["preempted"] = misses.preempted;
  return reasons;
}

std::string stats_repr(const PrefixCacheStats& s) {
  return concat("PrefixCacheStats(hits=", s.hits, ", misses=", s.misses,
                ", tokens_matched=", s.tokens_matched, ", tokens_asked=", s.tokens_asked,
                ", evictions=", s.evictions,
                ", misses_by_reason=", std::string(py::str(misses_by_reason(s))), ")");
}

py::object max_blocks(const PrefixCache& cache) {
  const std::optional<std::int64_t> most = cache.max_blocks();
  return most ? py::object(py::int_(*most)) : py::none();
}

std::string cache_repr(const PrefixCache& cache) {
  const std::optional<std::int64_t> most = cache.max_blocks();
  return concat("PrefixCache(", counted(cache.size(), "block"), most ? concat(" of ", *most) : "",
                ")");
}

void bind_cache_stats(py::module_& m) {
  bind_class<PrefixCacheStats>(m, "PrefixCacheStats", docs::kPrefixCacheStats)
      .def_readonly("hits", &PrefixCacheStats::hits, "Matches that found a token or more.")
      .def_readonly("misses", &PrefixCacheStats::misses, "Matches that found none.")
      .def_readonly("tokens_matched", &PrefixCacheStats::tokens_matched,
                    "Tokens that matches found in the cache.")
      .def_readonly("tokens_asked", &PrefixCacheStats::tokens_asked,
                    "Tokens of all token_ids that were asked for.")
      .def_readonly("evictions", &PrefixCacheStats::evictions,
                    "Cached blocks that had to go, for want of room or by evict.")
      .def_property_readonly("misses_by_reason", &misses_by_reason, docs::kMissesByReason)
      .def("__repr__", &stats_repr);
}

}  // namespace

void bind_prefix_cache(py::module_& m) {
  bind_cache_stats(m);
  auto cache =
      bind_class<PrefixCache, std::shared_ptr<PrefixCache>>(m, "PrefixCache", docs::kPrefixCache);
  def_init(cache, "PrefixCache", &new_cache, docs::kPrefixCache, py::arg("pool"), py::kw_only(),
           py::arg("max_blocks") = py::none());
  def_method(cache, "PrefixCache.match", &match, docs::kMatch, py::arg("token_ids"), py::kw_only(),
             py::arg("namespace") = "", py::arg("sliding_window") = py::none(),
             py::arg("num_sink_tokens") = 0);
  def_method(cache, "PrefixCache.peek", &peek, docs::kPeek, py::arg("token_ids"), py::kw_only(),
             py::arg("namespace") = "", py::arg("sliding_window") = py::none(),
             py::arg("num_sink_tokens") = 0);
  def_method(cache, "PrefixCache.insert", &insert, docs::kInsert, py::arg("token_ids"),
             py::arg("table"), py::kw_only(), py::arg("namespace") = "", py::arg("priority") = 0);
  def_method(cache, "PrefixCache.pin", &pin, docs::kPin, py::arg("token_ids"), py::kw_only(),
             py::arg("namespace") = "");
  def_method(cache, "PrefixCache.unpin", &unpin, docs::kUnpin, py::arg("token_ids"), py::kw_only(),
             py::arg("namespace") = "");
  def_method(cache, "PrefixCache.evict", &evict, docs::kEvict, py::arg("num_blocks"));
  def_method(cache, "PrefixCache.clear", &PrefixCache::clear, docs::kClear,
             py::call_guard<WithoutGil>());
  def_method(cache, "PrefixCache.stats", &PrefixCache::stats, docs::kCacheStats,
             py::call_guard<WithoutGil>());
  cache.def_property_readonly("pool", &PrefixCache::pool, "The pool that its blocks are of.")
      .def_property_readonly("max_blocks", &max_blocks, "The most blocks that are cached, or None.")
      .def("__len__", &PrefixCache::size, py::call_guard<WithoutGil>())
      .def("__bool__", [](const PrefixCache&) { return true; })
      .def("__repr__", &cache_repr)
      .def("_repr_html_", [](py::object self) {
        return py::module_::import("quire.report_display").attr("cache_html")(self);
      });
}

}  // namespace quire::python
