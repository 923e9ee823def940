"""The election itself: data and pure functions.

No socket and no thread, and no decision reads a clock: instants are arguments. The Lua files are read at import, and
the wall time is read for display.
"""
