// Whether a process may use AMX: it has to be in the processor, and Linux has to grant it.
#pragma once

namespace quire {

// Asks Linux for tiles the first time, for good and for all threads of the process: their state
// makes the frames of signals larger.
bool has_amx();

// Why has_amx() is false; null where it is true.
const char* why_no_amx();

}  // namespace quire
