"""The latch, in this process and in a fork of it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from django_leader import process
from django_leader.process import Latch, PidLatch, new_latch


@pytest.mark.parametrize("make", [new_latch, PidLatch])
def test_s19_a_latch_is_false_in_a_child_and_stays_true_in_its_parent(make: Callable[[], Latch]) -> None:
    latch = make()
    assert latch[0]
    pid = os.fork()
    if pid == 0:
        os._exit(42 if not latch[0] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
    assert latch[0]


@pytest.mark.parametrize("make", [new_latch, PidLatch])
def test_a_latch_that_is_set_to_false_is_false(make: Callable[[], Latch]) -> None:
    latch = make()
    latch[0] = 0
    assert not latch[0]


def test_where_pages_cannot_be_wiped_the_process_id_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_MADV_WIPEONFORK", 99999)
    assert isinstance(new_latch(), PidLatch)
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert isinstance(new_latch(), PidLatch)
