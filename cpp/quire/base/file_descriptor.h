// An open file of the system, closed when this goes.
#pragma once

#include "quire/base/file_calls.h"

namespace quire {

class FileDescriptor {
 public:
  explicit FileDescriptor(int descriptor = -1) : descriptor_(descriptor) {}
  ~FileDescriptor() { reset(-1); }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  int get() const { return descriptor_; }
  bool is_open() const { return descriptor_ >= 0; }
  // What close says is no news: whoever must know that the bytes are on the disk has synced them.
  void reset(int descriptor) {
    if (is_open()) file_calls.close(descriptor_);
    descriptor_ = descriptor;
  }
  // Whoever has it now closes it.
  void release() { descriptor_ = -1; }

 private:
  int descriptor_;
};

}  // namespace quire
