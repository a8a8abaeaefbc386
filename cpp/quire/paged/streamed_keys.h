// Where attention meets a pool whose blocks are not all in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "quire/kv/residency/block_stream.h"
#include "quire/ops/attention/key_pager.h"

namespace quire {

// Streams of the pool's blocks, one a pass, as attention asks for them.
class StreamedKeys final : public KeyPager {
 public:
  StreamedKeys(Residency& residency, std::int64_t layer) : residency_(residency), layer_(layer) {}

  std::int64_t most_blocks() const override { return residency_.stretch_blocks(); }
  bool start(const std::vector<std::vector<std::int32_t>>& stretches) override {
    stream_.reset();  // which would wait for itself
    stream_ = std::make_unique<BlockStream>(residency_, layer_);
    return stream_->start(stretches);
  }
  void wait_for(std::size_t stretch) override { stream_->wait_for(stretch); }
  void done_with(std::size_t stretch) override { stream_->done_with(stretch); }

 private:
  Residency& residency_;
  const std::int64_t layer_;
  std::unique_ptr<BlockStream> stream_;
};

}  // namespace quire
