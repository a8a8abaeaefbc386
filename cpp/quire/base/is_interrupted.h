// What a loop of a long call asks (interruption.h), also where nothing can be thrown.
#pragma once

namespace quire {

// Whether the call that this thread makes, or works for, is to end. For loops of a call to ask, at
// turns of 20 us or longer; whoever hears true stops, and has confirm_uninterrupted throw.
// `has_waited`: for kLookInterval, so that it is time to ask.
bool is_interrupted(bool has_waited = false);

}  // namespace quire
