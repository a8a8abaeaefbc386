#include "quire/kv/ledger/invariants.h"

#include <cstdio>

namespace quire {

void tell_broken(const InvariantError& error) noexcept {
  std::fprintf(stderr, "broken: %s\n", error.what());
}

}  // namespace quire
