// The pins of a prefix cache, next to those of a plain one.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kv/prefix/plain_prefix_cache.h"
#include "kv/prefix/prefix_rows.h"
#include "quire/kv/prefix/prefix_cache.h"

namespace quire::testing {

class PinnedPrefixes {
 public:
  PinnedPrefixes(PrefixCache& cache, PlainPrefixCache& plain) : cache_(cache), plain_(plain) {}

  std::int64_t size() const { return static_cast<std::int64_t>(pins_.size()); }
  std::int64_t made() const { return made_; }

  // Or is refused, where nothing is there.
  void pin(const std::string& space, const Ids& ids) {
    const std::size_t tokens = plain_.pin(space, ids);
    if (tokens == 0) {
      ASSERT_THROW(cache_.pin(ids, space), ValueError);
      return;
    }
    ASSERT_EQ(cache_.pin(ids, space), static_cast<std::int64_t>(tokens));
    pins_.emplace_back(space, ids);
    ++made_;
  }

  void unpin(std::int64_t index) {
    const auto pin = pins_.begin() + index;
    ASSERT_TRUE(plain_.unpin(pin->first, pin->second));
    cache_.unpin(pin->second, pin->first);
    pins_.erase(pin);
  }

  // Ids that are pinned or not.
  void try_unpin(const Ids& ids) {
    const auto pin = std::find(pins_.begin(), pins_.end(), std::pair(std::string(), ids));
    if (pin != pins_.end()) return unpin(pin - pins_.begin());
    ASSERT_FALSE(plain_.unpin("", ids));
    ASSERT_THROW(cache_.unpin(ids), ValueError);
  }

  // The cache was cleared.
  void forget() { pins_.clear(); }

 private:
  PrefixCache& cache_;
  PlainPrefixCache& plain_;
  std::vector<std::pair<std::string, Ids>> pins_;
  std::int64_t made_ = 0;
};

}  // namespace quire::testing
