// The processor's floating-point mode, which every thread has for itself.
#pragma once

#include <cstdint>

namespace quire {

// The default mode while this lives: round to nearest even, subnormal numbers kept, nothing
// trapped. A caller may have set another, and threads inherit that of whoever started them: the
// bits of a result must depend on neither. Whatever makes numbers of others for a caller begins
// with this, and so does every thread of a pool.
class DefaultFloatMode {
 public:
  DefaultFloatMode() : saved_(get()) { set(kDefault); }
  ~DefaultFloatMode() { set(saved_); }
  DefaultFloatMode(const DefaultFloatMode&) = delete;
  DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;

 private:
#if defined(__x86_64__)
  using Mode = std::uint32_t;
  static constexpr Mode kDefault = 0x1f80;
  static Mode get() { return __builtin_ia32_stmxcsr(); }
  static void set(Mode mode) { __builtin_ia32_ldmxcsr(mode); }
#elif defined(__aarch64__)
  using Mode = std::uint64_t;
  static constexpr Mode kDefault = 0;
  static Mode get() {
    Mode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#else
  using Mode = int;
  static constexpr Mode kDefault = 0;
  static Mode get() { return 0; }
  static void set(Mode) {}
#endif

  Mode saved_;
};

}  // namespace quire
