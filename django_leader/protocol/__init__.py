"""The election itself: data and pure functions. No I/O, no thread, no clock: instants are arguments."""
