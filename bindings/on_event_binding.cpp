#include <memory>
#include <utility>

#include "bindings.h"
#include "bound_class.h"
#include "define.h"
#include "gil.h"
#include "numpy_view.h"
#include "on_event_docs.h"
#include "quire/base/check.h"
#include "quire/kv/pool/block_pool.h"

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

// Hears, and goes, on any thread, with or without the GIL.
class PythonListener final : public BlockListener {
 public:
  explicit PythonListener(py::object callback) : callback_(std::move(callback)) {}
  ~PythonListener() override {
    if (!Py_IsInitialized()) {
      callback_.release();  // nobody is left to take it back
      return;
    }
    const WithGil locked;
    call_or_stop([this] { callback_ = py::object(); });
  }

  const py::object& callback() const { return callback_; }

  void hear(const BlockEvent& event) noexcept override {
    const WithGil locked;
    const py::error_scope pending;  // what is being raised where a table goes
    try {
      py::tuple blocks(event.blocks.size());
      for (std::size_t i = 0; i < event.blocks.size(); ++i) blocks[i] = event.blocks[i];
      call_or_stop([&] {
        PyObject* const result =
            PyObject_CallFunction(callback_.ptr(), "sO", name_of(event.kind), blocks.ptr());
        if (result == nullptr) PyErr_WriteUnraisable(callback_.ptr());
        Py_XDECREF(result);
      });
    } catch (const std::exception&) {  // no memory for the event: it is lost
    }
  }

 private:
  py::object callback_;
};

py::object on_event(BlockPool& pool, py::object callback) {
  std::shared_ptr<BlockListener> listener;
  if (!callback.is_none()) {
    if (!PyCallable_Check(callback.ptr())) {
      raise<TypeError>("BlockPool.on_event: callback", "got ", type_name(callback),
                       ", expected a function or None");
    }
    listener = std::make_shared<PythonListener>(std::move(callback));
  }
  {
    const WithoutGil unlocked;
    listener = pool.set_listener(std::move(listener));
  }
  const auto* former = dynamic_cast<const PythonListener*>(listener.get());
  return former == nullptr ? py::none() : former->callback();
}

}  // namespace

void bind_on_event(py::module_&) {
  auto pool = bound_class<BlockPool>();
  def_method(pool, "BlockPool.on_event", &on_event, docs::kOnEvent, py::arg("callback"));
}

}  // namespace quire::python
