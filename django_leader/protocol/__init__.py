"""The election itself, without a socket, a thread or a clock of its own.

Why only one process leads at a time: the top of ``machine``. Why a take-over is safe: the top of ``expiry``. What Redis
holds, and what happens when it has lost data: ``lua/state.lua``. In order: ``config``, ``records``, ``lua/state.lua``,
``machine``, ``expiry``, ``hold``, ``pace``; ``session``, which drives the machine, and ``errands``; then what it says
to Redis and hears: ``requests``, ``template``, ``replies``, ``scripts``, ``lua/``. Jobs stand on that: ``schedule``,
``slots``, ``lua/claim.lua``, ``jobs``.

A new command at Redis is a request (``requests``), what its reply means (``replies``), what follows from that
(``session``), a script if it needs one (``lua/``), and a right of the Redis user (``acl``).

Two words end many docstrings of this package. *Pure*: the result depends on the arguments alone. *Local*: nothing is
asked of another machine, and the caller is not blocked.
"""
