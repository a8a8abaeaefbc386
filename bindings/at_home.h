// In a forked child nothing of its parent's pools can be used but the views of their memory: every
// function that takes a pool, a table or a cache by reference raises there, also where it would
// need no lock. Included wherever such functions are bound.
#pragma once

#include <pybind11/pybind11.h>

#include "quire/kv/pool/block_pool.h"
#include "quire/kv/prefix/prefix_cache.h"
#include "quire/kv/table/block_table.h"

namespace quire::python {

inline const PoolHome& home_of(const BlockPool& pool) { return pool.home(); }
inline const PoolHome& home_of(const BlockTable& table) { return table.pool()->home(); }
inline const PoolHome& home_of(const PrefixCache& cache) { return cache.pool()->home(); }

template <class T>
class CasterAtHome : public pybind11::detail::type_caster_base<T> {
  using Base = pybind11::detail::type_caster_base<T>;

 public:
  operator T*() {
    T* const object = Base::operator T*();
    if (object != nullptr) home_of(*object).require();
    return object;
  }
  operator T&() {
    T& object = Base::operator T&();
    home_of(object).require();
    return object;
  }
};

}  // namespace quire::python

namespace pybind11::detail {

template <>
class type_caster<quire::BlockPool> : public quire::python::CasterAtHome<quire::BlockPool> {};
template <>
class type_caster<quire::BlockTable> : public quire::python::CasterAtHome<quire::BlockTable> {};
template <>
class type_caster<quire::PrefixCache> : public quire::python::CasterAtHome<quire::PrefixCache> {};

}  // namespace pybind11::detail
