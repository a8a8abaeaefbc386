#include "quire/kv/prefix/prefix_cache.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>

#include "quire/base/check.h"

namespace quire {
namespace {

std::int64_t checked_max(std::optional<std::int64_t> max_blocks) {
  if (!max_blocks) return std::numeric_limits<std::int64_t>::max();
  if (*max_blocks < 0) {
    raise<ValueError>("PrefixCache: max_blocks", "got ", *max_blocks, ", expected >= 0");
  }
  return *max_blocks;
}

// A copy: the caller's array may change while it is being read, and must be read once.
std::vector<std::int64_t> copy_of(TokenIds ids) { return {ids.begin(), ids.end()}; }

void check_window(std::string_view function, const PrefixWindow& window) {
  if (window.size < 0) {
    raise<ValueError>(place(function, "sliding_window"), "got ", window.size, ", expected >= 1");
  }
  if (window.num_sink_tokens < 0) {
    raise<ValueError>(place(function, "num_sink_tokens"), "got ", window.num_sink_tokens,
                      ", expected >= 0");
  }
}

// What a match may find: attention needs a token to start from.
TokenIds all_but_last(TokenIds ids) { return ids.first(ids.empty() ? 0 : ids.size() - 1); }

}  // namespace

PrefixCache::PrefixCache(std::shared_ptr<BlockPool> pool, std::optional<std::int64_t> max_blocks)
    : pool_(std::move(pool)), block_size_(pool_->geometry().block_size), max_blocks_(max_blocks) {
  const std::int64_t most = checked_max(max_blocks);
  const BlockPool::Books books(*pool_);
  tree_ =
      std::make_unique<RadixTree>(books.ledger(), pool_->geometry().num_blocks, block_size_, most);
}

std::vector<std::int64_t> PrefixCache::ids_of(std::string_view space) {
  std::vector<std::int64_t> ids(space.size() + 1, 256);
  std::transform(space.begin(), space.end(), ids.begin(),
                 [](char c) { return static_cast<unsigned char>(c); });
  return ids;
}

// In a forked child, where another thread may have been changing it, the tree is left as it is.
PrefixCache::~PrefixCache() {
  if (!pool_->home().is_here()) {
    [[maybe_unused]] const RadixTree* const left = tree_.release();
    return;
  }
  set_listener(nullptr);
  const BlockPool::Delivery delivery(*pool_);
  const BlockPool::Books books(*pool_);
  tree_->clear();
  books->leave(*tree_);
}

std::shared_ptr<PrefixListener> PrefixCache::set_listener(
    std::shared_ptr<PrefixListener> listener) {
  const BlockPool::Books books(*pool_);
  if (listener != nullptr) {
    pool_->join(books, events_);
  } else {
    pool_->leave(books, *events_);
  }
  tree_->write_events_to(listener != nullptr ? events_.get() : nullptr);
  return events_->listen(std::move(listener));
}

std::int64_t PrefixCache::peek(TokenIds token_ids, std::string_view space,
                               const PrefixWindow& window) const {
  check_window("PrefixCache.peek", window);
  const std::vector<std::int64_t> ids = copy_of(all_but_last(token_ids));
  const std::vector<std::int64_t> space_ids = ids_of(space);
  std::vector<std::int32_t> blocks;
  blocks.reserve(ids.size() / block_size_ + 1);  // outside the pool's lock
  const BlockPool::Books books(*pool_);
  const RadixTree::Rest rest = tree_->find(space_ids, ids, {window}, &blocks);
  return std::ssize(blocks) * block_size_ + rest.rows;
}

std::shared_ptr<BlockTable> PrefixCache::match(TokenIds token_ids, std::string_view space,
                                               const PrefixWindow& window) {
  check_window("PrefixCache.match", window);
  const std::vector<std::int64_t> copied = copy_of(token_ids);
  pool_->storage().memory().require_written("PrefixCache.match");
  const TokenIds ids(copied);
  const TokenIds wanted = all_but_last(ids);
  const std::vector<std::int64_t> space_ids = ids_of(space);
  const BlockPool::Delivery delivery(*pool_);
  auto table = std::make_shared<BlockTable>(pool_);
  auto lease = std::make_shared<char>();
  std::vector<std::int32_t> blocks;
  blocks.reserve(wanted.size() / block_size_ + 1);  // as all else, outside the pool's lock

  std::int64_t matched = 0;
  RadixTree::Rest rest;
  std::int32_t copy = -1;
  std::int32_t copy_id = -1;  // as the table reads it
  table->columns_.history.reserve(1);
  std::optional<OpenRoom::Claim> claim;
  if (pool_->open_room().is_limited()) {  // a look beforehand
    {
      const BlockPool::Books books(*pool_);
      rest = tree_->find(space_ids, wanted, {window}, &blocks);
    }
    matched = std::ssize(blocks) * block_size_ + rest.rows;
    blocks.clear();
    const Asked asked{"PrefixCache.match", "token_ids", matched};
    if (rest.rows > 0) claim.emplace(pool_->open_room(), asked, 1, 1);
  }
  {
    const BlockPool::Books books(*pool_);
    // No room was claimed for rows that another thread has only just cached.
    const bool copies_rows = !pool_->open_room().is_limited() || claim.has_value();
    rest = tree_->find(space_ids, wanted, {window, copies_rows}, &blocks);
    matched = static_cast<std::int64_t>(blocks.size()) * block_size_ + rest.rows;
    if (rest.rows > 0) {
      // What is held from now on cannot make room.
      const auto idle = [&](std::int32_t block) { return block != kHole && books->is_idle(block); };
      const std::int64_t kept =
          std::count_if(blocks.begin(), blocks.end(), idle) + idle(rest.block);
      if (!books.can_free(1 + kept)) {
        const std::int64_t pinned = books->num_pinned();
        raise<OutOfBlocks>("PrefixCache.match: token_ids", "got ", counted(matched, "cached token"),
                           ", the last ", rest.rows,
                           " of which take a block, expected one free or cached",
                           pinned > 0 ? concat(", beside ", pinned, " pinned") : "");
      }
    }
    books->hold(blocks, block_size_);
    if (rest.rows > 0) {
      books->hold({&rest.block, 1}, rest.rows);  // until its rows are copied
      books.require_free(1, {"PrefixCache.match", "token_ids", matched});
      books->give_to_table({&copy, 1}, rest.rows);
      copy_id = table->open_columns().to_write(books, copy, copy);
    }
    stats_.tokens_asked += static_cast<std::int64_t>(ids.size());
    stats_.tokens_matched += matched;
    ++(matched > 0 ? stats_.hits : stats_.misses);
    if (matched == 0) {
      count_miss(tree_->miss_reason(space_ids, ids));
      tree_->note_asked(space_ids, ids, lease);
    }
  }
  if (rest.rows > 0) {
    // Where the copy's rows are open they are not in its tile yet, and its id has none.
    const std::int32_t both[] = {rest.block, copy_id};
    pool_->keep_resident(both);
    pool_->copy_rows({rest.block, 0}, {copy_id, 0}, rest.rows);
    pool_->settle(both);
    const BlockPool::Books books(*pool_);
    books->note_copy(rest.block, copy);
    books->drop({&rest.block, 1}, rest.rows);
    blocks.push_back(copy);
    table->open_columns().read_last_as(copy_id, false);
  }
  table->columns_.blocks = std::move(blocks);
  table->columns_.num_tokens = matched;
  table->columns_.history.begin(matched);
  assert(holds([&] { table->check_changed(); }));
  if (matched == 0) table->lease_ = std::move(lease);
  confirm_uninterrupted();
  return table;
}

void PrefixCache::count_miss(MissReason reason) {
  PrefixCacheStats::Misses& by_reason = stats_.misses_by_reason;
  switch (reason) {
    case MissReason::cold:
      ++by_reason.cold;
      break;
    case MissReason::short_:
      ++by_reason.short_;
      break;
    case MissReason::evicted:
      ++by_reason.evicted;
      break;
    case MissReason::other_namespace:
      ++by_reason.other_namespace;
      break;
    case MissReason::preempted:
      ++by_reason.preempted;
      break;
  }
}

// Of so many tokens, those up to the last that are there: holes at the end lead nowhere.
std::int64_t PrefixCache::end_of_blocks(const BlockTable& table, std::int64_t tokens) const {
  while (tokens > 0 && table.columns_.blocks[(tokens - 1) / block_size_] == kHole) {
    tokens = (tokens - 1) / block_size_ * block_size_;
  }
  return tokens;
}

void PrefixCache::insert(TokenIds token_ids, const BlockTable& table, std::string_view space,
                         std::int64_t priority) {
  constexpr std::string_view function = "PrefixCache.insert";
  if (priority < PrefixNodes::kLeastPriority || priority > PrefixNodes::kMostPriority) {
    raise<ValueError>(place(function, "priority"), "got ", priority, ", expected ",
                      PrefixNodes::kLeastPriority, " to ", PrefixNodes::kMostPriority);
  }
  const std::vector<std::int64_t> ids = copy_of(token_ids);
  const std::vector<std::int64_t> space_ids = ids_of(space);
  if (table.pool_ != pool_) {
    raise<ValueError>(place(function, "table"), "got one of another pool, expected the cache's");
  }
  const BlockPool::Delivery delivery(*pool_);
  const std::shared_lock lock(table.mutex_);
  table.require_in_use(function);
  if (static_cast<std::int64_t>(ids.size()) > table.columns_.num_tokens) {
    raise<ValueError>(place(function, "token_ids"), "got ", counted(ids.size(), "token"),
                      ", expected at most the table's ", table.columns_.num_tokens);
  }
  table.require_beginning("PrefixCache.insert: table", static_cast<std::int64_t>(ids.size()));
  TokenIds kept = TokenIds(ids).first(end_of_blocks(table, std::ssize(ids)));
  // Full columns that the table reads open are sealed for others; of a pool that opens none there
  // are no such, and part of a block is kept as well.
  const std::int64_t columns = std::ssize(kept) / block_size_;
  const std::int64_t first = std::min(table.columns_.first_open(), columns);
  pool_->seal(std::span(table.columns_.blocks).subspan(first, columns - first));
  const std::int64_t least = pool_->geometry().least_cached_rows();
  kept = kept.first(std::ssize(kept) / least * least);
  const BlockPool::Books books(*pool_);
  tree_->insert(space_ids, kept, table.columns_.blocks, static_cast<int>(priority));
}

std::int64_t PrefixCache::pin(TokenIds token_ids, std::string_view space) {
  const std::vector<std::int64_t> ids = copy_of(token_ids);
  const std::vector<std::int64_t> space_ids = ids_of(space);
  RadixTree::Pins pin = RadixTree::new_pin(space_ids, ids);
  std::int64_t tokens = 0;
  {
    const BlockPool::Books books(*pool_);
    tokens = tree_->pin(space_ids, ids, &pin);
  }
  if (tokens == 0) {
    raise<ValueError>("PrefixCache.pin: token_ids", "got ", counted(ids.size(), "token"),
                      ", of which none is cached, expected the beginning of a cached sequence");
  }
  return tokens;
}

void PrefixCache::unpin(TokenIds token_ids, std::string_view space) {
  const std::vector<std::int64_t> ids = copy_of(token_ids);
  const RadixTree::Pins pin = RadixTree::new_pin(ids_of(space), ids);
  bool was_pinned = false;
  {
    const BlockPool::Books books(*pool_);
    was_pinned = tree_->unpin(pin);
  }
  if (!was_pinned) {
    raise<ValueError>("PrefixCache.unpin: token_ids", "got ", counted(ids.size(), "token"),
                      " that are not pinned, expected those of a pin");
  }
}

std::int64_t PrefixCache::evict(std::int64_t num_blocks) {
  if (num_blocks < 0) {
    raise<ValueError>("PrefixCache.evict: num_blocks", "got ", num_blocks, ", expected >= 0");
  }
  const BlockPool::Delivery delivery(*pool_);
  const BlockPool::Books books(*pool_);
  const std::int64_t before = books->num_free();
  while (books->num_free() - before < num_blocks && tree_->evict_one()) continue;
  return books->num_free() - before;
}

void PrefixCache::clear() {
  const BlockPool::Delivery delivery(*pool_);
  const BlockPool::Books books(*pool_);
  tree_->clear();
}

std::int64_t PrefixCache::size() const {
  const BlockPool::Books books(*pool_);
  return tree_->size();
}

PrefixCacheStats PrefixCache::stats() const {
  const BlockPool::Books books(*pool_);
  PrefixCacheStats stats = stats_;
  stats.evictions = tree_->evictions();
  return stats;
}

}  // namespace quire
