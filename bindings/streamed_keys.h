// Where attention meets a pool whose blocks are not all in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "quire/attention/key_pager.h"
#include "quire/kv/block_stream.h"

namespace quire::python {

// A stream of the pool's blocks, as attention asks for it.
class StreamedKeys final : public KeyPager {
 public:
  StreamedKeys(Residency& residency, std::int64_t layer) : stream_(residency, layer) {}

  std::int64_t most_blocks() const override { return stream_.most_blocks(); }
  bool start(const std::vector<std::vector<std::int32_t>>& stretches) override {
    return stream_.start(stretches);
  }
  void wait_for(std::size_t stretch) override { stream_.wait_for(stretch); }
  void done_with(std::size_t stretch) override { stream_.done_with(stretch); }

 private:
  BlockStream stream_;
};

}  // namespace quire::python
