#include "quire/cpu/x86_amx.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "quire/cpu/x86_features.h"

namespace quire {
namespace {

// Refused where a thread's stack for signals is too small for the state of tiles, and where the
// kernel or a sandbox knows nothing of them.
bool has_permission() {
  constexpr long kRequestComponent = 0x1023;  // ARCH_REQ_XCOMP_PERM of arch_prctl(2)
  constexpr long kTileData = 18;              // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestComponent, kTileData) == 0;
}

const char* find_reason() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kBFloat16Tiles = 1u << 22;
  constexpr unsigned kTiles = 1u << 24;
  constexpr unsigned kAll = kBFloat16Tiles | kTiles;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kAll) != kAll) {
    return "the processor has no AMX with bfloat16";
  }
  if (!has_avx512bf16()) return "the processor or its system has no AVX-512 with BF16 beside AMX";
  if (!has_permission()) return "the system does not grant this process the state of tiles";
  return nullptr;
}

}  // namespace

const char* why_no_amx() {
  static const char* const reason = find_reason();
  return reason;
}

bool has_amx() { return why_no_amx() == nullptr; }

}  // namespace quire
