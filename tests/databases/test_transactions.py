"""Transactions of two leaders at a time, on real databases and at every level of isolation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from django_leader import StaleToken, fenced_transaction, fenced_update
from tests.databases.conftest import DEFAULTS, LEVELS, Database
from tests.databases.models import Author, Entry, Guard, Report
from tests.support.servers import GENEROUS, eventually

Start = Callable[[Callable[[], Any]], "Future[Any]"]
every_level = pytest.mark.parametrize("database", LEVELS, indirect=True)
every_kind = pytest.mark.parametrize("database", DEFAULTS, indirect=True)
READERS = [level for level in LEVELS if level not in ("sqlite IMMEDIATE", "mariadb serializable")]
"""Where a transaction that has read does not keep others from writing."""
every_server = pytest.mark.parametrize("database", DEFAULTS[1:], indirect=True)


@pytest.fixture
def start(database: Database) -> Iterator[Start]:
    """Calls functions in threads, each with a connection of its own."""
    pool = ThreadPoolExecutor()

    def call(function: Callable[[], Any]) -> Any:
        with closing(connections[database.name]):
            return function()

    yield lambda function: pool.submit(call, function)
    pool.shutdown()


class Held:
    """A block that has begun, and ends when it is told."""

    def __init__(self, start: Start, enter: Callable[[], Any], work: Callable[[], Any]) -> None:
        self._begun, self._go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with enter():
                self._begun.set()
                assert self._go_on.wait(GENEROUS)
                work()

        self._future = start(hold)
        eventually(lambda: self._begun.is_set() or self._future.done(), "the block has begun")

    def end(self) -> None:
        self._go_on.set()
        self._future.result(GENEROUS)


def write(database: Database, token: int) -> None:
    Entry.objects.using(database.name).create(text=str(token))


def written(database: Database) -> list[str]:
    return list(Entry.objects.using(database.name).order_by("pk").values_list("text", flat=True))


def fence(database: Database, token: int) -> Any:
    return fenced_transaction(Guard.objects.using(database.name).filter(name="billing"), token=token)


def in_fence(database: Database, token: int) -> Callable[[], None]:
    def run() -> None:
        with fence(database, token):
            write(database, token)

    return run


@pytest.fixture
def guard(database: Database) -> Guard:
    return Guard.objects.using(database.name).create(name="billing", fencing_token=5)


@every_level
def test_a_later_leader_waits_until_the_earlier_one_has_committed(
    database: Database, guard: Guard, start: Start
) -> None:
    earlier = Held(start, lambda: fence(database, 7), lambda: write(database, 7))
    later = start(in_fence(database, 8))
    database.wait_until_one_waits()
    assert not later.done()
    earlier.end()
    if database.fails_behind_a_snapshot:
        with pytest.raises(OperationalError, match="could not serialize"):
            later.result(GENEROUS)
        later = start(in_fence(database, 8))
    later.result(GENEROUS)
    with pytest.raises(StaleToken, match=r"token 7, .* with 8"):
        start(in_fence(database, 7)).result(GENEROUS)
    guard.refresh_from_db()
    assert (written(database), guard.fencing_token) == (["7", "8"], 8)


@every_level
def test_an_earlier_leader_that_has_waited_is_refused(database: Database, guard: Guard, start: Start) -> None:
    later = Held(start, lambda: fence(database, 8), lambda: write(database, 8))
    earlier = start(in_fence(database, 7))
    database.wait_until_one_waits()
    assert not earlier.done()
    later.end()
    with pytest.raises(OperationalError if database.fails_behind_a_snapshot else StaleToken):
        earlier.result(GENEROUS)
    guard.refresh_from_db()
    assert (written(database), guard.fencing_token) == (["8"], 8)


@every_server
def test_a_check_that_locks_nothing_lets_the_earlier_leader_pass(
    database: Database, guard: Guard, start: Start
) -> None:
    """What the two tests above would find: the same transactions, with a read in place of the first statement."""

    def unlocked() -> None:
        with transaction.atomic(using=database.name):
            assert Guard.objects.using(database.name).get().fencing_token <= 7
            write(database, 7)

    later = Held(start, lambda: fence(database, 8), lambda: write(database, 8))
    start(unlocked).result(GENEROUS)
    later.end()
    assert sorted(written(database)) == ["7", "8"]


@every_kind
def test_rows_are_compared_again_after_a_wait(database: Database, start: Start) -> None:
    """Also those of a queryset with a join, whose conditions PostgreSQL does not evaluate again."""
    reports = Report.objects.using(database.name)
    author = Author.objects.using(database.name).create(name="a")
    for name in ("plain", "joined", "naive"):
        reports.create(name=name, author=author)
    by_author = reports.filter(author__name="a")

    for mine in (reports.filter(name="plain"), by_author):
        assert behind_a_later_leader(database, start, partial(fenced_update, mine, token=7, text="late")) == 0
    assert set(reports.values_list("text", "fencing_token")) == {("new", 8)}
    if database.kind == "postgresql":
        naive = by_author.filter(name="naive", fencing_token__lte=7)
        assert behind_a_later_leader(database, start, lambda: naive.update(fencing_token=7)) == 1
        assert reports.get(name="naive").fencing_token == 7, "so this test would notice"


def behind_a_later_leader(database: Database, start: Start, call: Callable[[], int]) -> int:
    """What the call gives that begins while a later leader has written all reports, and has not committed."""
    reports = Report.objects.using(database.name)
    reports.update(fencing_token=5, text="")

    @contextmanager
    def writing() -> Iterator[None]:
        with transaction.atomic(using=database.name):
            reports.fenced_update(token=8, text="new")
            yield

    later = Held(start, writing, lambda: None)
    earlier = start(call)
    database.wait_until_one_waits()
    assert not earlier.done()
    later.end()
    written: int = earlier.result(GENEROUS)
    return written


@pytest.mark.parametrize("database", READERS, indirect=True)
def test_a_refusal_is_noticed_although_an_earlier_read_shows_an_old_row(
    database: Database, guard: Guard, start: Start
) -> None:
    rows = Guard.objects.using(database.name)

    def read_and_write() -> None:
        with transaction.atomic(using=database.name):
            assert rows.get().fencing_token == 5
            start(in_fence(database, 8)).result(GENEROUS)
            fenced_update(rows, token=7, raise_if_stale=True)

    with pytest.raises((StaleToken, OperationalError)) as raised:
        read_and_write()
    fails = database.fails_behind_a_snapshot or database.server is None or database.level == "snapshot"
    assert raised.type is (OperationalError if fails else StaleToken)
    assert written(database) == ["8"]


@every_kind
def test_a_row_that_has_the_values_already_counts_as_written(database: Database) -> None:
    """MySQL counts changed rows, unless it is asked for those that were found."""
    reports = Report.objects.using(database.name)
    row = reports.create(name="a", text="x")
    assert [reports.fenced_update(token=7, text="x") for _ in range(3)] == [1, 1, 1]
    row.fenced_save(token=7)
    row.fenced_save(token=7)
    with pytest.raises(StaleToken):
        row.fenced_save(token=6)
    assert connections[database.name].get_autocommit()
