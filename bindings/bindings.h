// One function for each noun; module.cpp calls them.
#pragma once

#include <pybind11/pybind11.h>

#include "at_home.h"

namespace quire::python {

void bind_config(pybind11::module_& m);
void bind_write_kv(pybind11::module_& m);
void bind_block_pool(pybind11::module_& m);
void bind_block_table(pybind11::module_& m);
void bind_prefix_cache(pybind11::module_& m);
void bind_explain(pybind11::module_& m);      // after the pool, to which it adds
void bind_on_event(pybind11::module_& m);     // after the pool, to which it adds
void bind_persistence(pybind11::module_& m);  // after tables and caches, to which it adds
void bind_attention(pybind11::module_& m);
void bind_step(pybind11::module_& m);
void bind_gguf(pybind11::module_& m);
void bind_linear(pybind11::module_& m);
void bind_rowwise(pybind11::module_& m);
void bind_sampling(pybind11::module_& m);
void bind_recurrent(pybind11::module_& m);
void bind_model(pybind11::module_& m);
void bind_engine(pybind11::module_& m);  // after models, pools and caches, whose types it has

}  // namespace quire::python
