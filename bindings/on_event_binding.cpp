#include <pybind11/stl.h>

#include <memory>
#include <utility>

#include "bindings.h"
#include "bound_class.h"
#include "define.h"
#include "gil.h"
#include "numpy_view.h"
#include "on_event_docs.h"
#include "python_callback.h"
#include "quire/base/check.h"
#include "quire/kv/pool/block_pool.h"
#include "quire/kv/prefix/prefix_cache.h"

namespace quire::python {
namespace {

namespace py = pybind11;

const char* name_of(BlockEvent::Kind kind) {
  switch (kind) {
    case BlockEvent::Kind::allocated:
      return "allocated";
    case BlockEvent::Kind::shared:
      return "shared";
    case BlockEvent::Kind::copied:
      return "copied";
    case BlockEvent::Kind::evicted:
      return "evicted";
    case BlockEvent::Kind::offloaded:
      return "offloaded";
    case BlockEvent::Kind::restored:
      return "restored";
    case BlockEvent::Kind::freed:
      return "freed";
  }
  return "";
}

class PythonListener final : public BlockListener {
 public:
  explicit PythonListener(py::object callback) : callback_(std::move(callback)) {}
  const py::object& callback() const { return callback_.get(); }

  void hear(const BlockEvent& event) noexcept override {
    callback_.call([&] {
      py::tuple blocks(event.blocks.size());
      for (std::size_t i = 0; i < event.blocks.size(); ++i) blocks[i] = event.blocks[i];
      return py::make_tuple(name_of(event.kind), blocks);
    });
  }

 private:
  PythonCallback callback_;
};

class PythonPrefixListener final : public PrefixListener {
 public:
  explicit PythonPrefixListener(py::object callback) : callback_(std::move(callback)) {}
  const py::object& callback() const { return callback_.get(); }

  void hear(const PrefixEvent& event) noexcept override {
    callback_.call([&] {
      const auto none_below_0 = [](std::int64_t number) {
        return number < 0 ? py::object(py::none()) : py::object(py::int_(number));
      };
      py::tuple ids(event.token_ids.size());
      for (std::size_t i = 0; i < event.token_ids.size(); ++i) ids[i] = event.token_ids[i];
      const char* kind = event.kind == PrefixEvent::Kind::stored ? "stored" : "removed";
      const py::object made = py::module_::import("quire.prefix_event")
                                  .attr("PrefixEvent")(kind, event.node, none_below_0(event.parent),
                                                       ids, event.space, none_below_0(event.block));
      return py::make_tuple(made);
    });
  }

 private:
  PythonCallback callback_;
};

// Sets what a callback makes a listener, and returns the former callback.
template <class Listener, class Source>
py::object listen(const char* function, Source& source, py::object callback) {
  auto listener = decltype(source.set_listener(nullptr))();
  if (!callback.is_none()) {
    if (!PyCallable_Check(callback.ptr())) {
      raise<TypeError>(place(function, "callback"), "got ", type_name(callback),
                       ", expected a function or None");
    }
    listener = std::make_shared<Listener>(std::move(callback));
  }
  {
    const WithoutGil unlocked;
    listener = source.set_listener(std::move(listener));
  }
  const auto* former = dynamic_cast<const Listener*>(listener.get());
  return former == nullptr ? py::none() : former->callback();
}

py::object on_event(BlockPool& pool, py::object callback) {
  return listen<PythonListener>("BlockPool.on_event", pool, std::move(callback));
}

py::object on_cache_event(PrefixCache& cache, py::object callback) {
  return listen<PythonPrefixListener>("PrefixCache.on_event", cache, std::move(callback));
}

}  // namespace

void bind_on_event(py::module_&) {
  auto pool = bound_class<BlockPool>();
  def_method(pool, "BlockPool.on_event", &on_event, docs::kOnEvent, py::arg("callback"));
  auto cache = bound_class<PrefixCache>();
  def_method(cache, "PrefixCache.on_event", &on_cache_event, docs::kOnCacheEvent,
             py::arg("callback"));
}

}  // namespace quire::python
