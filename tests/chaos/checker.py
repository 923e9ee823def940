"""What a history proves. Pure: no clock, no process, no server; every function gives what is wrong with it.

NOT guaranteed here: that an overlap is found which no sample saw. What is reported did happen:

- A look at ``is_leader()`` that gave true proves that the process led at some instant between the clock readings
  around it. Two such looks with the same token prove that it led all the time from behind the first to before the
  last, because a term that has ended never comes back (and a term that does is reported by itself).
- So two processes led at one instant if these certain spans of theirs share one, or if a look of one lies wholly
  within the certain span of the other. A process that was stopped in the middle of a look makes that look longer,
  and proves less by it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from .journal import Callback, Fault, History, Stretch

NOBODY = "nobody led again"
SECOND = 1_000_000_000
TOLERANCE = SECOND // 50
"""What a lease's deadline may be less than asked for, as the sampler computes it from two clock readings."""


class Violation(NamedTuple):
    """Something that must not be, and when."""

    what: str
    at: int
    text: str


class Recovery(NamedTuple):
    """How long nobody led after a fault, in nanoseconds; None when nobody led in time for the run to see it."""

    fault: Fault
    time: int | None
    allowed: int


@dataclass
class Report:
    """What the checker found."""

    violations: list[Violation]
    recoveries: list[Recovery]
    terms: list[int]
    """When each term was first seen."""

    def count(self, what: str) -> int:
        """How many violations of one sort there are."""
        return sum(violation.what == what for violation in self.violations)


def check(history: History) -> Report:
    """Everything at once."""
    found = recoveries(history)
    late = [
        Violation("late", r.fault.since, f"{_name(r.fault)}: {_took(r.time)}, allowed are {r.allowed / SECOND:.2f} s")
        for r in found
        if r.time is None or r.time > r.allowed
    ]
    crashed = [Violation("crashed", 0, f"{process}: status {status}") for process, status in history.crashed.items()]
    raised = [Violation("raised", at, f"{process}: {text}") for process, at, text in history.raised]
    wrong = [*overlaps(history), *disorder(history), *revived(history), *unpaired(history), *hasty(history)]
    stuck = [Violation("stuck", at, text) for at, text in history.stuck]
    terms: dict[int, int] = {}
    for stretch in history.stretches:
        terms[stretch.token] = min(stretch.first_after, terms.get(stretch.token, stretch.first_after))
    return Report(
        sorted([*wrong, *late, *crashed, *raised, *stuck], key=lambda violation: violation.at),
        found,
        sorted(terms.values()),
    )


def overlaps(history: History) -> list[Violation]:
    """Pairs of processes that led at one instant."""
    found = []
    current: list[Stretch] = []
    for stretch in sorted(history.stretches, key=lambda s: s.first_before):
        current = [other for other in current if other.last_after > stretch.first_before]
        for other in current:
            length = shared(stretch, other)
            if length > 0 and stretch.process != other.process:
                text = (
                    f"{other.process} with {other.token} and {stretch.process} with {stretch.token} "
                    f"both led for {length / SECOND * 1000:.3f} ms"
                )
                found.append(Violation("overlap", stretch.first_after, text))
        current.append(stretch)
    return found


def shared(one: Stretch, other: Stretch) -> int:
    """Nanoseconds in which both certainly led; 1 when all that is certain is an instant of it."""
    common = min(one.last_before, other.last_before) - max(one.first_after, other.first_after)
    if common > 0:
        return common
    return int(_sees(one, other) or _sees(other, one))


def _sees(one: Stretch, other: Stretch) -> bool:
    """Whether the first or the last look of ``one`` lies wholly where ``other`` certainly led."""
    looks = ((one.first_before, one.first_after), (one.last_before, one.last_after))
    return any(other.first_after < before and after < other.last_before for before, after in looks)


def disorder(history: History) -> list[Violation]:
    """Tokens that two processes had, and lower ones that were seen to lead behind higher ones."""
    owners: dict[int, set[str]] = defaultdict(set)
    for token, process in [*((s.token, s.process) for s in history.stretches), *_gains(history)]:
        owners[token].add(process)
    found = [
        Violation("disorder", _first(history, token), f"token {token} was given to {', '.join(sorted(processes))}")
        for token, processes in owners.items()
        if len(processes) > 1
    ]
    latest: Stretch | None = None
    for stretch in sorted(history.stretches, key=lambda s: s.token):
        # Who leads with a lower token was granted before, so it must be over once a higher one has been seen.
        behind = latest and latest.token != stretch.token and stretch.first_after < latest.last_before
        if latest and behind and (latest.process == stretch.process or shared(stretch, latest) <= 0):
            text = f"{latest.process} led with {latest.token} behind {stretch.process} with {stretch.token}"
            found.append(Violation("disorder", stretch.first_after, text))
        if latest is None or stretch.last_before > latest.last_before:
            latest = stretch
    return found


def _gains(history: History) -> list[tuple[int, str]]:
    return [(call.token, call.process) for call in history.callbacks if call.kind == "gain"]


def _first(history: History, token: int) -> int:
    instants = [s.first_after for s in history.stretches if s.token == token]
    return min(instants + [call.at for call in history.callbacks if call.token == token])


def revived(history: History) -> list[Violation]:
    """Terms that were seen to be over, and then again not."""
    found = []
    seen: set[tuple[str, int]] = set()
    for stretch in sorted(history.stretches, key=lambda s: s.first_before):
        key = (stretch.process, stretch.token)
        if key in seen:
            text = f"{stretch.process} led again with {stretch.token}, which had ended"
            found.append(Violation("revived", stretch.first_after, text))
        seen.add(key)
    return found


def unpaired(history: History) -> list[Violation]:
    """Gains and losses that are not one of each, in turns, with the same token."""
    of: dict[str, list[Callback]] = defaultdict(list)
    for call in history.callbacks:
        of[call.process].append(call)
    found = []
    for process, calls in of.items():
        for call in calls[:1]:
            if call.kind == "loss":
                found.append(_alone(call, "nothing was gained"))
        for call, following in pairwise(calls):
            if call.kind == "gain" and (following.kind, following.token) != ("loss", call.token):
                found.append(_alone(call, f"{following.kind} of {following.token} came next"))
            elif call.kind == "loss" and following.kind == "loss":
                found.append(_alone(following, "nothing was gained since the last loss"))
            elif call.kind == "loss" and following.token <= call.token:
                found.append(_alone(following, f"the term before had {call.token}"))
        if calls[-1].kind == "gain" and process not in history.killed:
            found.append(_alone(calls[-1], "the process ended without a loss"))
        counts = Counter((call.kind, call.token) for call in calls)
        found += [
            _alone(call, "twice") for call in calls if counts.pop((call.kind, call.token), 1) > 1
        ]  # each of them once: pop takes the others' turn
    gained = {(call.process, call.token) for call in history.callbacks}
    for stretch in history.stretches:
        if (stretch.process, stretch.token) not in gained and stretch.process not in history.killed:
            text = f"{stretch.process} led with {stretch.token}, and no gain was announced"
            found.append(Violation("unpaired", stretch.first_after, text))
    return found


def _alone(call: Callback, why: str) -> Violation:
    return Violation("unpaired", call.at, f"{call.process}: {call.kind} of {call.token} {call.reason}: {why}")


def hasty(history: History) -> list[Violation]:
    """Terms that began when nobody might be elected."""
    return [
        Violation("hasty", stretch.first_after, f"{_name(fault)}: {stretch.process} led with {stretch.token}")
        for fault in history.faults
        for stretch in history.stretches
        if fault.since < stretch.first_before and stretch.first_after < fault.nobody_until - TOLERANCE
    ]


def recoveries(history: History) -> list[Recovery]:
    """How long it took after each fault until one led whose lease had been asked for after it."""
    starts = {(s.process, s.token): s.first_after for s in reversed(history.stretches)}
    found = []
    for fault in history.faults:
        certain = fault.since + history.lease - TOLERANCE
        lease = next((x for x in history.leases if x.at >= fault.since and x.deadline >= certain), None)
        start = starts.get((lease.process, lease.token)) if lease else None
        time = None if start is None else max(0, start - fault.since)
        bound = fault.bound or history.bound
        until = fault.since + (bound if time is None else time)
        stalls = sum(max(0, min(end, until) - max(began, fault.since)) for began, end in history.stalls)
        found.append(Recovery(fault, time, bound + 2 * stalls))
    return found


def _name(fault: Fault) -> str:
    return f"fault {fault.number}, {fault.kind} {fault.detail}"


def _took(time: int | None) -> str:
    return NOBODY if time is None else f"one led again after {time / SECOND:.2f} s"
