"""What waits for a thread."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from django_leader.system.starts import Start, Starts


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    """One whose process has forked in C, so that nobody has told it, and in which a start of the parent waits."""
    starts = Starts()
    starts._put_off(Start(lambda: None, "parent's"), None)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    yield starts
    starts._unhook()


def test_s19_a_child_forked_in_c_forgets_what_waited_in_its_parent(starts: Starts) -> None:
    starts._help()  # a greenlet that goes on in the child
    assert (starts.busy, starts._helped) == (False, False)


def test_s19_a_thread_that_works_off_what_waits_ends_in_a_child(starts: Starts) -> None:
    starts._helped = True
    starts._work_off()
    assert (starts.busy, starts._helped) == (False, False)
    starts._put_off(Start(lambda: None, "child's"), None)
    assert starts.busy
