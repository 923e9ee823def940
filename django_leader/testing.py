"""For the tests of a project that uses this package: leadership by decree, without Redis and without threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .conf import DEFAULT_ALIAS
from .grant import NO_GRANT, Grant
from .handler import elections

TEST_TOKEN = 1


@contextmanager
def leading(using: str = DEFAULT_ALIAS, *, token: int = TEST_TOKEN) -> Iterator[None]:
    """Within it (or in a function that it decorates) this process leads ``using``, with the fencing token ``token``.

    No callback is called, no signal is sent, and no election starts; a ``@leader_required`` command runs, or does not,
    by the decree. Local. Raises ``ImproperlyConfigured`` for bad settings.
    """
    with _decreed(using, Grant(token, [float("inf")])):
        yield


@contextmanager
def following(using: str = DEFAULT_ALIAS) -> Iterator[None]:
    """Within it (or in a function that it decorates) this process does not lead ``using``. Local."""
    with _decreed(using, NO_GRANT):
        yield


@contextmanager
def _decreed(using: str, grant: Grant) -> Iterator[None]:
    election = elections[using]
    before = election.overridden
    election.override(grant)
    try:
        yield
    finally:
        election.override(before)
