"""For the tests of a project that uses this package: who leads, without Redis and without threads."""

from __future__ import annotations

import math
from collections.abc import Callable

from .conf import DEFAULT_ALIAS
from .overrides import overrides
from .runtime.grant import NO_GRANT, Grant, new_cell
from .scopes import Scope
from .settings import read

TEST_TOKEN = 1


def leading(using: str = DEFAULT_ALIAS, *, token: int = TEST_TOKEN) -> Scope:
    """Have this process lead the election ``using``, with the fencing token ``token``.

    The returned object is a decorator of functions, coroutine functions and classes of tests, and a context manager.
    The newest override that has not ended counts, in all threads of this process, and through ``override_settings``.
    No callback is called, no signal is sent, and no election starts. A ``@leader_required`` command runs, if its own
    election is overridden: ``leading("command:<name>")``. A forked child does not lead. Local.

    Raise ``TypeError`` or ``ValueError`` at once for invalid arguments, and ``ImproperlyConfigured`` on entering when
    the settings have no election ``using``.
    """
    if isinstance(token, bool) or not isinstance(token, int):
        raise TypeError(f"leading: token is {token!r}; give an int")
    if token < 1:
        raise ValueError(f"leading: token is {token!r}; tokens begin with 1")
    # A cell for each use, because a fork wipes it, and test runners fork after they have imported the tests.
    return _override("leading", using, lambda: Grant(token, new_cell(math.inf)))


def following(using: str = DEFAULT_ALIAS) -> Scope:
    """Have this process not lead the election ``using``, and a ``@leader_required`` command not run.

    Use it as ``leading``. Local. Raise ``TypeError`` at once if ``using`` is no ``str``, and ``ImproperlyConfigured``
    on entering when the settings have no election ``using``.
    """
    return _override("following", using, lambda: NO_GRANT)


def real_elections() -> Scope:
    """Let ``@leader_required`` commands campaign on the Redis of the settings, which they refuse to do in tests.

    Use it as ``leading``. An override of a command's election still counts within it. Local.
    """

    def begin() -> Callable[[], None]:
        overrides.begin_real_elections()
        return overrides.end_real_elections

    return Scope("real_elections", begin)


def _override(name: str, using: str, grant: Callable[[], Grant]) -> Scope:
    if callable(using):
        raise TypeError(f"{name}: {using!r} is no alias of an election; write @{name}(), with parentheses")
    if not isinstance(using, str):
        raise TypeError(f"{name}: using is {using!r}; give the alias of an election")

    def begin() -> Callable[[], None]:
        override = overrides.begin(using, grant())
        return lambda: overrides.end(override)

    return Scope(name, begin, check=lambda: read(using))
