"""``python -m tests.process.handovers``: a job of every second passes from leader to leader, hundreds of times.

Three real processes and a real server make a fleet. The leader is ended, killed or frozen, or its server loses its
data, and another process leads. In the end each second must have been run by one process once, or the stream of runs
must say why it was not run.

What a slot's run says is one write to a pipe, so a process that is killed has either run a slot or has not. The stream
of runs is read in one step with what deletes it. So nothing is excused but what the server has really said.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from tests.support.candidates import Candidate
from tests.support.servers import RedisServer, eventually, program

OPTIONS: dict[str, Any] = {"lock_ttl": 2.0, "heartbeat_interval": 0.4, "retry_interval": 0.1, "job": True}
RUNS = "{maplefile:leader:lock}:runs"
AT_A_TIME = 6
LONGEST_PAUSE = 1.2
"""Seconds between a run of the new leader and the next fault, at most: more than a slot, so that it comes anywhere."""


class Told(NamedTuple):
    """What the stream says of the slots after ``since``, up to ``slot``: not of those that were run."""

    since: int
    slot: int
    outcome: str


class Book:
    """What became of each slot of one fleet."""

    def __init__(self) -> None:
        self.runs = Counter[int]()
        self.told: list[Told] = []
        self._known = 0
        """The last slot that was told of when data were lost. What was told before is in this book."""

    def ran(self, slot: int) -> None:
        """Note a run."""
        self.runs[slot] += 1

    def read(self, entries: Iterable[dict[bytes, bytes]]) -> None:
        """Note what is new in the stream."""
        for entry in entries:
            slot, outcome = int(entry[b"slot"]) // 1000, entry[b"outcome"].decode()
            since = int(entry[b"since"]) // 1000 if b"since" in entry else slot - 1
            # A claim without a record knows nothing of the slots before it, but this book does.
            self.told.append(Told(max(since, self._known) if b"since" in entry else since, slot, outcome))

    def lost(self) -> None:
        """Note that the server has lost all data."""
        self._known = max([self._known, *self.runs, *(one.slot for one in self.told)])

    def why_not(self, slot: int) -> str:
        """Return why a slot was not run, by the stream; empty if nothing says so."""
        reasons = (one.outcome for one in self.told if one.since < slot <= one.slot and one.outcome != "ok")
        return next(reasons, "")

    def problems(self) -> list[str]:
        """Return which slots were run twice, and which were not run although nothing says why."""
        twice = [f"the slot {slot} was run {number} times" for slot, number in self.runs.items() if number > 1]
        return twice + [f"the slot {slot} was not run, and nothing says why" for slot in self.left_out() - self.why()]

    def all(self) -> range:
        """Return the slots from the first that was run to the last."""
        return range(min(self.runs, default=0), max(self.runs, default=-1) + 1)

    def left_out(self) -> set[int]:
        """Return the slots that were not run."""
        return set(self.all()) - set(self.runs)

    def why(self) -> set[int]:
        """Return those of them of which the stream says why."""
        return {slot for slot in self.left_out() if self.why_not(slot)}


class Fleet:
    """One server and three candidates."""

    def __init__(self, seed: int) -> None:
        self.random, self.book = random.Random(seed), Book()
        path = program("redis-server") or program("valkey")
        assert path, "a server is needed"
        self.server = RedisServer(path, "--appendonly", "yes", "--appendfsync", "always").start()
        self._last = b"0-0"
        """The last entry of the stream that was read."""
        self.begun: list[tuple[float, str]] = []
        """When each fault began, by the clock that the server has, too."""
        self._token = 0
        """Of the last term that the faults have met."""
        self.candidates = [self._candidate() for _ in range(3)]
        self.leader = self._leads(self.candidates)

    def _candidate(self) -> Candidate:
        return Candidate(self.server.port, **OPTIONS)

    def _leads(self, among: list[Candidate]) -> Candidate:
        """Wait until one of these has run a slot in a later term, and return it.

        On a busy machine the next leader may lose its term before it runs one. Then the one after it does.
        """

        def ran() -> Candidate | None:
            for one, token in self.collect():
                if one in among and token > self._token:
                    self._token = token
                    return one
            return None

        found: Candidate = eventually(ran, f"a slot is run in a later term than {self._token}", every=0.05)
        return found

    def collect(self) -> list[tuple[Candidate, int]]:
        """Take what the processes have said. Return which has run a slot since, and in which term."""
        runs = []
        for one in self.candidates:
            for said in one.pending():
                if said["event"] == "run":
                    self.book.ran(round(said["slot"]))
                    runs.append((one, int(said["token"])))
            one.unheard.clear()
        return runs

    def read(self, *, then: Callable[[Any], object] = lambda commands: None) -> None:
        """Read the stream, and do something in the same step."""
        with self.server.client() as client, client.pipeline(transaction=True) as commands:
            commands.xrange(RUNS, min=b"(" + self._last)
            then(commands)
            entries = commands.execute()[0]
        self.book.read(values for _, values in entries)
        self._last = entries[-1][0] if entries else self._last

    def flush(self) -> None:
        """Delete all data."""
        self.read(then=lambda commands: commands.flushall())
        self._forget()

    def restart(self, *, empty: bool) -> None:
        """Kill the server and start it again, with all that it had acknowledged, or without."""
        if empty:
            self.flush()  # its file is empty, too
        self.server.stop()
        self.server.start()

    def _forget(self) -> None:
        self.collect()
        self.book.lost()
        self._last = b"0-0"

    def hand_over(self, fault: str) -> float:
        """Harm the leader. Return the seconds until the first run of the next one."""
        time.sleep(self.random.uniform(0.0, LONGEST_PAUSE))
        began, others = time.monotonic(), [one for one in self.candidates if one is not self.leader]
        self.collect()
        before, how = self.leader, FAULTS[fault]
        self.begun.append((time.time(), fault))
        how(self, before)
        self.leader = self._leads(others)
        took = time.monotonic() - began
        if fault == "frozen":
            before.thaw()
        else:
            self._replace(before)
        return took

    def _replace(self, ended: Candidate) -> None:
        ended.close()  # so all that it has said is here
        self.collect()
        self.candidates[self.candidates.index(ended)] = self._candidate()

    def close(self) -> None:
        """End all. Then all that was said is in the book."""
        self.read()
        for one in self.candidates:
            one.close()
        self.collect()
        self.server.close()


def killed(fleet: Fleet, leader: Candidate) -> None:
    """By SIGKILL."""
    leader.kill()


def stopped(fleet: Fleet, leader: Candidate) -> None:
    """By SIGTERM, at which the process resigns."""
    leader.process.send_signal(signal.SIGTERM)


def frozen(fleet: Fleet, leader: Candidate) -> None:
    """By SIGSTOP, until another one leads."""
    leader.freeze()


def lost_data(fleet: Fleet, leader: Candidate) -> None:
    """Some time after a FLUSHALL."""
    fleet.flush()
    time.sleep(fleet.random.uniform(0.0, LONGEST_PAUSE))
    leader.kill()


def lost_data_at_once(fleet: Fleet, leader: Candidate) -> None:
    """Before a FLUSHALL, so that nobody reclaims."""
    leader.kill()
    fleet.flush()


def restarted(fleet: Fleet, leader: Candidate) -> None:
    """Beside a server that is restarted with its data."""
    fleet.restart(empty=False)
    leader.kill()


def restarted_empty(fleet: Fleet, leader: Candidate) -> None:
    """Beside a server that is restarted without."""
    fleet.restart(empty=True)
    leader.kill()


FAULTS: dict[str, Callable[[Fleet, Candidate], None]] = {
    "SIGTERM": stopped,
    "SIGKILL": killed,
    "frozen": frozen,
    "FLUSHALL, then SIGKILL": lost_data,
    "SIGKILL, then FLUSHALL": lost_data_at_once,
    "server restarted, and SIGKILL": restarted,
    "server restarted empty, and SIGKILL": restarted_empty,
}


class Result(NamedTuple):
    """What one fleet has seen."""

    handovers: Counter[str]
    slots: Counter[tuple[str, str]]
    """Of the last fault before the slot, and of what became of the slot."""
    problems: list[str]


def passed_on(faults: list[str], seed: int) -> Result:
    """Have one fleet pass on the job at each of the faults."""
    fleet = Fleet(seed)
    try:
        for fault in faults:
            fleet.hand_over(fault)
    finally:
        fleet.close()
    book, slots = fleet.book, Counter[tuple[str, str]]()
    for slot in book.all():
        after = next((fault for began, fault in reversed(fleet.begun) if began <= slot), "before the first")
        slots[after, "run" if slot in book.runs else book.why_not(slot) or "unexplained"] += 1
    return Result(Counter(faults), slots, [f"seed {seed}: {one}" for one in book.problems()])


def table(results: list[Result]) -> list[str]:
    """Return the rows of what became of the slots after each fault."""
    handovers = sum((one.handovers for one in results), Counter[str]())
    slots = sum((one.slots for one in results), Counter[tuple[str, str]]())
    fates = sorted({fate for _, fate in slots}, key=lambda fate: (fate != "run", fate))
    rows = [["fault", "hand-overs", *fates], ["---"] * (2 + len(fates))]
    rows += [[name, str(number), *(str(slots[name, fate]) for fate in fates)] for name, number in handovers.items()]
    totals = [sum(number for (_, one), number in slots.items() if one == fate) for fate in fates]
    rows.append(["all", str(handovers.total()), *map(str, totals)])
    return [f"| {' | '.join(row)} |" for row in rows]


def say(text: str) -> None:
    """Print a line, or some."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the fleets, print what became of the slots, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=70, help="of hand-overs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the faults (default: random)")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    faults = [name for _ in range(-(-options.number // len(FAULTS))) for name in rng.sample(list(FAULTS), len(FAULTS))]
    faults = faults[: options.number]
    say(f"seed {options.seed}")
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        shares = [faults[index::AT_A_TIME] for index in range(AT_A_TIME)]
        results = list(pool.map(passed_on, shares, [options.seed + index for index in range(AT_A_TIME)]))
    problems = [problem for one in results for problem in one.problems]
    say("\n".join(table(results)))
    say("\n".join(problems) or "no slot was run twice, and none was left out in silence")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
