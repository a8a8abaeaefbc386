// The processor's floating-point mode, which every thread has for itself.
#pragma once

#include <cstdint>

namespace quire {

// A mode while this lives: round to nearest even, nothing trapped, and subnormal numbers kept or,
// with kFlush, taken for zero and made zero.
template <bool kFlush>
class FloatMode {
 public:
  FloatMode() : saved_(get()) { set(kFlush ? kDefault | kFlushBits : kDefault); }
  ~FloatMode() { set(saved_); }
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
#if defined(__x86_64__)
  using Mode = std::uint32_t;
  static constexpr Mode kDefault = 0x1f80;
  static constexpr Mode kFlushBits = 0x8040;  // results, and operands
  static Mode get() { return __builtin_ia32_stmxcsr(); }
  static void set(Mode mode) { __builtin_ia32_ldmxcsr(mode); }
#elif defined(__aarch64__)
  using Mode = std::uint64_t;
  static constexpr Mode kDefault = 0;
  static constexpr Mode kFlushBits = 1u << 24;
  static Mode get() {
    Mode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#else
  using Mode = int;
  static constexpr Mode kDefault = 0;
  static constexpr Mode kFlushBits = 0;
  static Mode get() { return 0; }
  static void set(Mode) {}
#endif

  Mode saved_;
};

// What a caller may have set, and threads inherit of whoever started them, the bits of a result
// must not depend on. Whatever makes numbers of others for a caller begins with this, and so does
// every thread of a pool.
using DefaultFloatMode = FloatMode<false>;

// Of sums that must have the bits of AMX's tiles, which know no subnormal numbers.
using FlushingFloatMode = FloatMode<true>;

}  // namespace quire
