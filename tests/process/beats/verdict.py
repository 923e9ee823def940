"""What the broker got, compared with what Redis has recorded of each slot."""

from __future__ import annotations

import itertools
import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from django_leader.celery.messages import task_id

from .faults import FAULTS, Fault
from .fleet import CONFIG, Fleet, Run

PERIOD = 1000
"""Milliseconds between two ticks."""
SKIPS = ("missed", "in-doubt", "unknown")
BEFORE = "before the first fault"


class Row:
    """What followed one kind of fault, up to the next fault."""

    def __init__(self) -> None:
        self.faults = self.handed_over = 0
        self.sent = 0
        """Slots of which the broker has a message."""
        self.again = 0
        """Messages of which it had another one with the same id."""
        self.skipped = Counter[str]()
        """Ticks that are recorded as not sent, by the reason."""
        self.lost: list[str] = []
        """Slots of which it has no message, and no record says why."""
        self.doubled: list[str] = []
        """Messages for a slot that was sent under another id, or that nobody has claimed."""
        self.took: list[float] = []
        """Seconds from the fault to the next message."""
        self.late: list[float] = []
        """Seconds from the slot to its message."""

    def add(self, other: Row) -> None:
        """Add what another row has."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)


class Verdict(NamedTuple):
    """What the broker got of one entry."""

    rows: dict[str, Row]
    """By the name of the fault."""

    @property
    def total(self) -> Row:
        """All rows in one."""
        row = Row()
        for one in self.rows.values():
            row.add(one)
        return row


class Book:
    """The rows of one run. What happened belongs to the last fault before it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.rows: dict[str, Row] = defaultdict(Row)
        self._names = [BEFORE, *(fault.name for fault in faults)]
        self._messages = [fault.messages for fault in faults]
        self._instants = [fault.at for fault in faults]

    def of_message(self, number: int) -> Row:
        """Return the row to which a message belongs, by its number in the queue."""
        return self.rows[self._names[bisect_right(self._messages, number)]]

    def of_run(self, run: Run) -> Row:
        """Return the row to which an entry of the stream belongs."""
        return self.rows[self._names[bisect_right(self._instants, run.at)]]


def covers(skips: Iterable[Run], since: int, to: int) -> bool:
    """Return whether each instant after ``since``, up to ``to``, is recorded as not sent."""
    for run in sorted(skips, key=lambda run: run.since):
        if run.since <= since:
            since = max(since, run.slot)
    return since >= to


def judge(fleet: Fleet, faults: Sequence[Fault] = (), name: str = "tick", period: int = PERIOD) -> Verdict:
    """Compare the messages with what is recorded of the slots of an entry whose beats have ended."""
    runs = [run for run in fleet.runs() if run.name == name]
    book = Book(faults)
    messages = fleet.messages()
    first = {one: number for number, one in reversed(list(enumerate(messages)))}
    claimed = {run.slot for run in runs if run.outcome in ("ok", "in-doubt")} | {int(fleet.record(name)["slot"])}
    ids = {task_id(CONFIG.redis_key_name, name, slot): slot for slot in claimed}
    for number, one in enumerate(messages):
        if first[one] != number:
            book.of_message(number).again += 1
        elif one in ids:
            book.of_message(number).sent += 1
        else:
            book.of_message(number).doubled.append(f"{one} is of no slot")
    skips = [run for run in runs if run.outcome in SKIPS]
    for run in runs:
        if run.outcome == "ok":
            book.of_run(run).late.append((run.at - run.slot) / 1000)
            if task_id(CONFIG.redis_key_name, name, run.slot) not in first:
                book.of_run(run).lost.append(f"{run.slot} is marked as sent")
    sent = sorted((ids[one], number) for one, number in first.items() if one in ids)
    for (before, _), (slot, number) in itertools.pairwise(sent):
        row = book.of_message(number)
        if slot - before < period:
            row.doubled.append(f"{slot} comes {slot - before} ms after {before}")
        if slot - before > period and not covers(skips, before, slot - 1):
            row.lost.append(f"something between {before} and {slot}")
        else:  # the last tick of a gap is sent, at its end
            gap = [run for run in skips if before < run.slot < slot]
            for tick in range(before + period, slot - period + 1, period):
                run = next(run for run in gap if run.since < tick <= run.slot)
                book.of_run(run).skipped[run.outcome] += 1
    count(book.rows, faults, runs)
    return Verdict(dict(book.rows))


def count(rows: dict[str, Row], faults: Iterable[Fault], runs: Sequence[Run]) -> None:
    """Note each fault, and after how long the next message was sent."""
    for fault in faults:
        row, least = rows[fault.name], fault.token if fault.handed_over else fault.token - 1
        row.faults += 1
        row.handed_over += fault.handed_over
        sent = (run.at for run in runs if run.outcome == "ok" and run.at >= fault.not_before and run.token > least)
        if (at := next(sent, None)) is not None:
            row.took.append((at - fault.at) / 1000)


HEAD = (
    f"{'':35}{'':6}{'hand-':>6}{'':6}{'same id':>8}{'not':>6}{'':5}{'':8}{'next message, s':>18}{'after slot, s':>17}\n"
    f"{'fault':35}{'times':>6}{'overs':>6}{'sent':>6}{'again':>8}{'sent':>6}{'lost':>5}{'doubled':>8}"
    f"{'median':>10}{'longest':>8}{'from':>9}{'to':>8}"
)


def line(name: str, row: Row) -> str:
    """One line of the table."""
    text = f"{name:35}{row.faults:6}{row.handed_over:6}{row.sent:6}{row.again:8}{row.skipped.total():6}"
    text += f"{len(row.lost):5}{len(row.doubled):8}"
    text += f"{statistics.median(row.took):10.3f}{max(row.took):8.3f}" if row.took else f"{'-':>10}{'-':>8}"
    return text + (f"{min(row.late):9.3f}{max(row.late):8.3f}" if row.late else "")


def table(verdicts: Sequence[Verdict]) -> str:
    """The result as it is printed."""
    rows: dict[str, Row] = defaultdict(Row)
    for verdict in verdicts:
        for name, row in verdict.rows.items():
            rows[name].add(row)
    total = Verdict(rows).total
    lines = [HEAD, *(line(name, rows[name]) for name in [BEFORE, *FAULTS] if name in rows), line("all", total)]
    why = ", ".join(f"{number} {reason}" for reason, number in sorted(total.skipped.items()))
    return "\n".join([*lines, "", f"recorded as not sent: {why or 'none'}", *total.lost, *total.doubled])
