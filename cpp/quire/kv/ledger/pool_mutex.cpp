#include "quire/kv/ledger/pool_mutex.h"

#include "quire/base/check.h"

namespace quire {

void refuse_other_process() {
  raise<OtherProcess>("BlockPool: process",
                      "got a pool that belongs to another process, which this one was forked from, "
                      "expected one that was made here");
}

void CallMutex::refuse_call_in_call() {
  raise<Error>("BlockPool: process",
               "got a call from inside of another one, as from a handler of signals, that needs "
               "what is in use, expected one that does not");
}

}  // namespace quire
