"""A leader that is busy, and forks all the while. A child says by its exit status that it found nothing of a leader.

Options come as JSON in ``argv[1]``. What it saw is said as one JSON object.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import redis

from django_leader.protocol.config import Config
from django_leader.runtime.election import LeaderElection
from django_leader.system.clock import now
from testproject.embedded import die_with_parent
from tests.support.c_forks import fork_in_c
from tests.support.candidate_process import say
from tests.support.servers import GENEROUS, eventually

FINE = 42
MOST_CHILDREN = 4
"""Alive at a time: so that a machine with few processors makes children, and not only switches between them."""
NOWHERE = os.open(os.devnull, os.O_WRONLY)
log = logging.getLogger("tests.forking")


class Raised(logging.Handler):
    """Tells what nobody expected, of whichever process. A file object has a lock that a child may find locked."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record).encode() + b"\n"
        os.write(2 if record.exc_info else NOWHERE, text)


class Child(NamedTuple):
    way: str
    does: str
    since: float


class Storm:
    """The parent's threads, and what its children do."""

    def __init__(self, election: LeaderElection, other: LeaderElection, seed: int) -> None:
        self.election, self.other, self.rng = election, other, random.Random(seed)
        self.gained: list[int] = []
        self.stopped: dict[int, str] = {}
        """The own terms, and the candidacy of each."""
        self.lost: list[tuple[int, str]] = []
        self.wrong: list[str] = []
        self.over = threading.Event()
        self.children: dict[int, Child] = {}
        election.listen(self._gained, self._lost, lambda previous, current: log.info("%s, %s", previous, current))

    def _gained(self, token: int) -> None:
        self.gained.append(token)
        while self.election.fencing_token == token:
            log.info("works")
            time.sleep(0.003)

    def _lost(self, token: int, reason: str) -> None:
        self.lost.append((token, reason))

    def ask(self) -> None:
        """A term that was over once is over, however many forks there were."""
        over: set[int] = set()
        last = 0
        while not self.over.wait(0.0005):
            for _ in range(20):
                leads, token = self.election.is_leader(), self.election.fencing_token or 0
                if token != last:
                    over.add(last)
                    last = token
                if token and token in over:
                    self.wrong.append(f"the term {token} was over, and led again")
                if leads and not token and self.election.is_leader():
                    self.wrong.append("leads without a token")

    def note(self) -> None:
        """Writes down the term that this process may end, if it has one: nobody else may."""
        candidacy, token = self.election._candidacy, self.election.fencing_token
        if candidacy and token:
            self.stopped[token] = candidacy.shared.candidate_id

    def restart(self) -> None:
        while not self.over.wait(self.rng.uniform(0.1, 0.5)):
            self.election.wait_for_leadership(GENEROUS)
            self.note()
            self.election.stop()
            if self.election.is_leader():
                self.wrong.append("leads after a stop")
            self.election.start()

    def chatter(self) -> None:
        """Holds the locks of the log, and the one that every start takes, for much of the time."""
        while not self.over.wait(0.0005):
            log.info("chatters")
            for _ in range(50):
                self.other.start()  # which does nothing

    def look(self) -> None:
        """What a child sees of its parent's term: nothing."""
        for election in (self.election, self.other):
            seen = election.is_leader(), election.fencing_token, election.lease_left, election.running
            assert seen == (False, None, 0.0, False), seen

    def leave(self) -> None:
        os._exit(FINE)

    def stop_and_leave(self) -> None:
        """As much as the child of a fork in C can do for sure: it must not wait for anything, not even in a thread."""
        self.election.stop()
        assert not self.election.resign()
        self.look()
        os._exit(FINE)

    def exit(self) -> None:
        """Runs the ``atexit`` that is inherited."""
        sys.exit(FINE)

    def use(self) -> None:
        """All that an application may call without being a candidate."""
        self.election.stop()
        assert not self.election.resign()
        assert not self.election.wait_for_leadership(1.0)
        assert not self.election.outage
        self.election.status()
        self.election.history(1)
        self.look()
        sys.exit(FINE)

    def talk(self) -> None:
        for _ in range(10):
            log.info("talks")
        sys.exit(FINE)

    def threads(self) -> None:
        seen: list[bool] = []
        threads = [threading.Thread(target=lambda: seen.append(self.election.is_leader())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [False] * 3
        sys.exit(FINE)

    def grandchild(self) -> None:
        pid = os.fork()
        self.look()
        if pid:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == FINE
        sys.exit(FINE)

    def _campaign(self) -> None:
        not_mine = set(self.gained)
        self.election.start()
        assert self.election.running
        until = now() + self.rng.uniform(0.0, 0.05)
        while now() < until:
            assert self.election.fencing_token not in not_mine
            time.sleep(0.001)

    def campaign(self) -> None:
        self._campaign()
        self.election.stop()
        self.look()
        sys.exit(FINE)

    def campaign_and_exit(self) -> None:
        self._campaign()
        sys.exit(FINE)

    def campaign_and_die(self) -> None:
        self._campaign()
        os._exit(FINE)

    def fork(self, way: str, does: Callable[[], None]) -> None:
        pid = FORKS[way]()
        if pid == 0:
            self.look()
            if way == "python":
                die_with_parent()
            does()
        self.children[pid] = Child(way, does.__name__, now())

    def reap(self) -> None:
        for pid, child in list(self.children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended and now() > child.since + GENEROUS:
                os.kill(pid, signal.SIGUSR1)  # it tells where it hangs
                time.sleep(1.0)
                os.kill(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, 0)
            if ended:
                del self.children[pid]
                if (code := os.waitstatus_to_exitcode(status)) != FINE:
                    self.wrong.append(f"the child {pid} ({child.way}, {child.does}) ended with {code}")

    def run(self, forks: int) -> None:
        long = [self.exit, self.use, self.talk, self.threads, self.grandchild]
        long += [self.campaign, self.campaign_and_exit, self.campaign_and_die]
        short = [self.leave] * 3 * len(long)
        threads = [threading.Thread(target=does, daemon=True) for does in (self.ask, self.restart, self.chatter)]
        for thread in threads:
            thread.start()
        for number in range(forks):
            if number % 2:
                self.fork("python", self.rng.choice(long + short))
            else:
                self.fork("C", self.stop_and_leave)
            self.reap()
            while len(self.children) >= MOST_CHILDREN:
                time.sleep(0.001)
                self.reap()
        while self.children:
            time.sleep(0.001)
            self.reap()
        self.over.set()
        for thread in threads:
            thread.join(GENEROUS)


FORKS: dict[str, Callable[[], int]] = {"python": os.fork, "C": fork_in_c}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def main() -> None:
    options = json.loads(sys.argv[1])
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    logging.getLogger().addHandler(Raised())
    logging.getLogger().setLevel("INFO")
    port, forks, seed = (options.pop(name) for name in ("port", "forks", "seed"))
    client, config = redis.Redis(port=port), Config(**options)
    election, other = LeaderElection(client, config), LeaderElection(client, config.derive("other"), name="other")
    storm = Storm(election, other, seed)
    for one in (election, other):
        one.start()
        eventually(one.is_leader)
    token = other.fencing_token
    before = descriptors()
    storm.run(forks)
    eventually(election.is_leader)
    storm.note()
    if other.fencing_token != token:
        storm.wrong.append("the term of the other election, which nobody has stopped, is over")
    after = descriptors()

    def given_back() -> bool:
        """A thread that looks for the cause of a late heartbeat has a file open for a moment."""
        nonlocal after
        after = descriptors()
        return after <= before

    with contextlib.suppress(AssertionError):
        eventually(given_back)
    say(
        "storm",
        wrong=storm.wrong,
        stopped=storm.stopped,
        lost=storm.lost,
        descriptors=[before, after],
    )


if __name__ == "__main__":
    main()
