// A prefix cache as a plain map from prefixes to blocks, which answers what PrefixCache should.
//
// It knows who holds which block from the test, looks at every entry for every question, and keeps
// its entries in plain lists, by the rule in radix_tree.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kv/prefix/plain_window.h"
#include "kv/prefix/prefix_rows.h"
#include "quire/kv/prefix/radix_tree.h"

namespace quire::testing {

class PlainPrefixCache {
 public:
  using Key = std::pair<std::string, Ids>;  // a namespace, and all ids up to the end of a block

  // is_held(block): whether somebody but a cache holds it.
  PlainPrefixCache(std::size_t block_size, std::size_t max_blocks,
                   std::function<bool(std::int32_t)> is_held)
      : block_size_(block_size), max_blocks_(max_blocks), is_held_(std::move(is_held)) {}

  std::int64_t evictions = 0;
  std::int64_t left_places = 0;  // by blocks that had as many as there may be

  std::size_t size() const {
    return std::count_if(entries_.begin(), entries_.end(),
                         [](const auto& entry) { return entry.second.block != kHole; });
  }
  bool has(std::int32_t block) const {
    return std::any_of(entries_.begin(), entries_.end(),
                       [&](const auto& entry) { return entry.second.block == block; });
  }
  bool is_idle(std::int32_t block) const {
    return has(block) && !is_held_(block) && !is_pinned(block);
  }
  bool is_pinned(std::int32_t block) const {
    return std::any_of(entries_.begin(), entries_.end(), [&](const auto& entry) {
      return entry.second.block == block && is_pinned(entry.first);
    });
  }

  struct Found {
    std::vector<std::int32_t> blocks;  // whole ones
    std::int32_t rest = -1;
    std::size_t rows = 0;
    Key end = {};  // where the last of them stands
  };
  // With a window, whose tokens are needed, or without, where all are.
  Found find(const std::string& space, const Ids& ids, const PrefixWindow& window) const {
    Found found = find_columns(space, ids, window.size > 0);
    if (window.size == 0) return found;
    const auto rows = static_cast<std::int64_t>(found.rows);
    const auto block_size = static_cast<std::int64_t>(block_size_);
    const PlainCut cut = plain_cut(window, block_size, rows, found.blocks);
    found.blocks = cut.columns;
    found.rows = cut.tokens - cut.columns.size() * block_size_;
    return found;
  }
  Found find_columns(const std::string& space, const Ids& ids, bool passes_holes) const {
    Found found;
    for (Key at{space, {}};;) {
      const Ids wanted = piece(ids, at.second.size());
      const auto [key, common] = best_child(at, wanted);
      if (common == 0) return found;
      const std::int32_t block = entries_.at(key).block;
      if (block == kHole && (!passes_holes || common < block_size_)) return found;
      found.end = key;
      if (common < block_size_) {
        found.rest = block;
        found.rows = common;
        return found;
      }
      found.blocks.push_back(block);
      at = key;
    }
  }

  void insert(const std::string& space, const Ids& ids, const std::vector<std::int32_t>& blocks,
              std::int64_t priority) {
    Key at{space, {}};
    for (std::size_t i = 0; at.second.size() < ids.size(); ++i) {
      const Ids wanted = piece(ids, i * block_size_);
      const auto [key, common] = best_child(at, wanted);
      if (common == wanted.size()) {
        const bool fills = entries_.at(key).block == kHole && blocks[i] != kHole;
        if (fills && common == block_size_ && !fill(key, blocks[i], priority)) break;
        at = key;
        if (common < block_size_) break;
        continue;
      }
      const Key parent = at;
      at.second = at.second + wanted;
      const bool continues = common > 0 && common == key.second.size() - parent.second.size();
      if (continues && is_pinned(key) &&
          (blocks[i] == kHole || places(blocks[i], key) >= RadixTree::kMaxPlaces)) {
        at = parent;
        break;
      }
      entries_[at] = {blocks[i], ++created_, priority};
      if (continues) {
        raise(at, entries_.at(key).priority);
        move_pins(key, at);
        drop(key);
      }
      if (blocks[i] != kHole && !finds_room(at)) {
        drop(at);
        at = parent;
        break;
      }
    }
    for (; !at.second.empty(); at = parent_of(at)) {
      const auto entry = entries_.find(at);
      if (entry == entries_.end()) continue;
      raise(at, priority);
      if (entry->second.block != kHole) make_newest(at);
    }
  }

  bool evict_one() {
    if (evict_leaf()) return true;
    while (!waiting_.empty()) {
      const Key key = waiting_.front();
      if (is_idle(entries_.at(key).block)) {
        evictions += drop_below(key);
        return true;
      }
      waiting_.erase(waiting_.begin());
    }
    return false;
  }

  void forget(std::int32_t block) {
    while (has(block)) {
      const auto entry = std::find_if(entries_.begin(), entries_.end(),
                                      [&](const auto& e) { return e.second.block == block; });
      evictions += drop_below(entry->first);
    }
  }

  // Tokens that are pinned, maybe none; and whether there was such a pin.
  std::size_t pin(const std::string& space, const Ids& ids) {
    const Found found = find(space, ids, {});
    const std::size_t tokens = found.blocks.size() * block_size_ + found.rows;
    if (tokens > 0) pins_.emplace(Key{space, ids}, found.end);
    return tokens;
  }
  bool unpin(const std::string& space, const Ids& ids) {
    const auto [first, last] = pins_.equal_range({space, ids});
    if (first == last) return false;
    Key at = std::prev(last)->second;
    pins_.erase(std::prev(last));
    for (; !at.second.empty(); at = parent_of(at)) {
      if (!is_pinned(at)) note_if_idle(entries_.at(at).block);
    }
    return true;
  }

  void clear() {
    pins_.clear();
    entries_.clear();
    idle_.clear();
    waiting_.clear();
  }

  // The last holder has let go.
  void note_idle(std::int32_t block) {
    std::vector<std::pair<std::int64_t, Key>> latest;
    for (const auto& [key, entry] : entries_) {
      if (entry.block == block) latest.emplace_back(-entry.created, key);
    }
    std::sort(latest.begin(), latest.end());
    for (const auto& [created, key] : latest) {
      make_newest(key);
    }
  }

 private:
  struct Entry {
    std::int32_t block = -1;
    std::int64_t created = 0;
    std::int64_t priority = 0;
  };

  bool finds_room(const Key& added) {
    return leaves_a_place(added) && (size() <= max_blocks_ || evict_leaf());
  }
  // Gives a hole a block; false where there is no room for it and nothing below it any more.
  bool fill(const Key& hole, std::int32_t block, std::int64_t priority) {
    raise(hole, priority);
    entries_[hole].block = block;
    entries_[hole].created = ++created_;
    if (finds_room(hole)) return true;
    entries_[hole].block = kHole;
    const bool stays = has_children(hole);
    if (!stays) drop(hole);
    return stays;
  }

  void raise(const Key& key, std::int64_t priority) {
    entries_.at(key).priority = std::max(entries_.at(key).priority, priority);
  }

  bool is_pinned(const Key& key) const {
    return std::any_of(pins_.begin(), pins_.end(), [&](const auto& pin) {
      const auto& [space, ids] = pin.second;
      const bool leads_there = key.second.size() % block_size_ == 0 &&
                               common_prefix(ids, key.second) == key.second.size();
      return space == key.first && (ids == key.second || leads_there);
    });
  }
  void note_if_idle(std::int32_t block) {
    if (is_idle(block)) note_idle(block);
  }
  void move_pins(const Key& from, const Key& to) {
    if (!is_pinned(from)) return;
    for (auto& [asked, end] : pins_) {
      if (end == from) end = to;
    }
    note_if_idle(entries_.at(from).block);
  }
  std::int64_t places(std::int32_t block, const Key& but) const {
    return std::count_if(entries_.begin(), entries_.end(), [&](const auto& entry) {
      return entry.second.block == block && entry.first != but;
    });
  }

  // What is new is a place too many of its block: it leaves the oldest that is not pinned, unless
  // that leads here.
  bool leaves_a_place(const Key& added) {
    const std::int32_t block = entries_.at(added).block;
    std::int64_t places = 0;
    Key oldest = added;
    for (const auto& [key, entry] : entries_) {
      if (entry.block != block) continue;
      ++places;
      if (entry.created < entries_.at(oldest).created && !is_pinned(key)) oldest = key;
    }
    if (places <= RadixTree::kMaxPlaces) return true;
    if (oldest.first == added.first &&
        common_prefix(oldest.second, added.second) == oldest.second.size()) {
      return false;
    }
    evictions += drop_below(oldest);
    ++left_places;
    return true;
  }

  Ids piece(const Ids& ids, std::size_t begin) const {
    return {ids.begin() + begin, ids.begin() + std::min(ids.size(), begin + block_size_)};
  }
  Key parent_of(const Key& key) const {
    const std::size_t length = (key.second.size() - 1) / block_size_ * block_size_;
    return {key.first, {key.second.begin(), key.second.begin() + length}};
  }
  bool has_children(const Key& key) const {
    return std::any_of(entries_.begin(), entries_.end(),
                       [&](const auto& entry) { return parent_of(entry.first) == key; });
  }

  // Of the neighbours of `wanted` in order, the one that shares more; the one before if equal.
  std::pair<Key, std::size_t> best_child(const Key& parent, const Ids& wanted) const {
    std::pair<Key, std::size_t> before, after;
    for (const auto& [key, entry] : entries_) {
      if (parent_of(key) != parent) continue;
      const Ids own = piece(key.second, parent.second.size());
      const std::size_t common = common_prefix(own, wanted);
      if (own <= wanted) before = {key, common};
      if (own > wanted && after.first.second.empty()) after = {key, common};
    }
    return before.second >= after.second ? before : after;
  }

  static void erase(std::vector<Key>& list, const Key& key) { std::erase(list, key); }

  void make_newest(const Key& key) {
    erase(idle_, key);
    erase(waiting_, key);
    if (is_idle(entries_.at(key).block)) idle_.push_back(key);
  }

  void drop(const Key& key) {
    const Key parent = parent_of(key);
    entries_.erase(key);
    erase(idle_, key);
    erase(waiting_, key);
    const auto above = entries_.find(parent);
    if (above != entries_.end() && above->second.block == kHole && !has_children(parent)) {
      return drop(parent);
    }
    if (std::count(waiting_.begin(), waiting_.end(), parent) == 0 || has_children(parent)) return;
    erase(waiting_, parent);
    idle_.insert(idle_.begin(), parent);
  }

  std::int64_t drop_below(const Key& top) {
    const std::size_t before = size();
    std::vector<Key> below;
    for (const auto& [key, entry] : entries_) {
      if (key.first == top.first && common_prefix(key.second, top.second) == top.second.size()) {
        below.push_back(key);
      }
    }
    for (; !below.empty(); below.pop_back()) {  // the longest of each branch first
      if (entries_.count(below.back()) > 0) drop(below.back());
    }
    return static_cast<std::int64_t>(before - size());
  }

  bool evict_leaf() {
    while (!idle_.empty()) {
      // the first in the list of those with the lowest priority
      const Key key = *std::ranges::min_element(
          idle_, {}, [&](const Key& idle) { return entries_.at(idle).priority; });
      const bool idle = is_idle(entries_.at(key).block);
      if (idle && !has_children(key)) {
        drop(key);
        ++evictions;
        return true;
      }
      erase(idle_, key);
      if (idle) waiting_.push_back(key);
    }
    return false;
  }

  const std::size_t block_size_, max_blocks_;
  const std::function<bool(std::int32_t)> is_held_;
  std::map<Key, Entry> entries_;
  std::multimap<Key, Key> pins_;  // by what was asked for: where it ended
  std::vector<Key> idle_, waiting_;
  std::int64_t created_ = 0;
};

}  // namespace quire::testing
