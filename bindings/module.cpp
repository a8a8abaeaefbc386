#include "bindings.h"
#include "dlpack_export.h"
#include "errors.h"
#include "numpy_view.h"

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  // each docstring starts with the signature, where help() and inspect look for it
  pybind11::options options;
  options.disable_function_signatures();
  m.doc() = "Quire's C++ library; import quire instead.";
  quire::python::initialise_numpy();
  quire::python::bind_errors(m);
  quire::python::bind_config(m);
  quire::python::bind_dlpack_export(m);
  quire::python::bind_write_kv(m);
  quire::python::bind_block_pool(m);
  quire::python::bind_block_table(m);
  quire::python::bind_prefix_cache(m);
  quire::python::bind_explain(m);
  quire::python::bind_on_event(m);
  quire::python::bind_persistence(m);
  quire::python::bind_attention(m);
  quire::python::bind_step(m);
  quire::python::bind_gguf(m);
  quire::python::bind_linear(m);
  quire::python::bind_rowwise(m);
  quire::python::bind_sampling(m);
  quire::python::bind_recurrent(m);
  quire::python::bind_model(m);
  quire::python::bind_engine(m);
}
