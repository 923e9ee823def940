"""``python -m tests.process.soak``: starts a server and stops it gracefully, at any moment, hundreds of times.

Requests come all the while. However early or late the signal comes, the server must end, with all of its processes, and
leave no lease behind: with a lease of a minute and no look at who died, nobody could lead before that is over.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.process.servers.harness import BOUND, LOCK, Row, Run, running
from tests.process.servers.ways import WAYS, Way
from tests.support.servers import eventually

AT_A_TIME = 2
CLIENTS = 3
MOMENTS = ("", "started because", "leader, with token", "an answer")
"""What the signal follows: the start, one of the first lines of the log that says so, or the first answer."""
DELAY = 0.3
"""Seconds after it, at the most."""
FORGETFUL = ("uWSGI prefork",)
"""Ways in which a worker loses the signal if it comes before the worker has begun to serve, and is then waited for."""
SETTLING = 0.1
"""Seconds that those need from there."""
CHOSEN = ("gunicorn sync", "gunicorn --preload", "uvicorn", "uWSGI prefork")


class Round:
    """One start and one stop. ``problems`` tells what was not as it should be."""

    def __init__(self, way: Way, seed: int) -> None:
        self.row, self.seed = Row(way), seed
        self.changes = 0
        self._answered = False
        self._leaders: list[int] = []
        self._clients = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]

    def run(self) -> Round:
        """Raises nothing: what goes wrong becomes a problem."""
        rng, way = random.Random(self.seed), self.row.way
        assert isinstance(way, Way)
        moment, delay = rng.choice(MOMENTS), rng.uniform(0, DELAY)
        with running(self.row, f"seed {self.seed}, a signal {delay:.3f} s after {moment!r}") as self._run:
            for client in self._clients:
                client.start()
            eventually(lambda: self._is_time(moment), moment, 2 * BOUND)
            time.sleep(delay + SETTLING * (way.name in FORGETFUL))
            self._run.stop(way)
            self.row.status = self._run.ended()
            self._check(self._run)
        return self

    def _is_time(self, moment: str) -> bool:
        log, way = self._run.log.read_text(errors="replace"), self.row.way
        ready = way.name not in FORGETFUL or (isinstance(way, Way) and log.count("started because") >= way.children)
        return ready and (self._answered if moment == "an answer" else moment in log)

    def _ask(self) -> None:
        """Notes who says that it leads, whenever that is another one."""
        while not self._run.over.is_set():
            said = self._run.ask(timeout=5)
            self._answered = self._answered or said is not None
            if said and said["is_leader"] and said["pid"] not in self._leaders:
                self._leaders.append(said["pid"])
            time.sleep(0.005)

    def _check(self, run: Run) -> None:
        kinds = [kind for _, kind, _ in run.history()]
        self.changes = kinds.count("elected")
        assert not run.client.exists(LOCK), "a lease was left behind"
        assert kinds == ["elected", "resigned"] * self.changes, "each term ended by a release"
        assert len(self._leaders) <= self.changes, f"{self._leaders} led, in {self.changes} terms"
        assert "Traceback" not in run.log.read_text(), "its log tells of an error"


def soak(way: Way, rounds: int, seed: int) -> bool:
    """Tells what came out. Gives whether all was well."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        tried = list(pool.map(lambda number: Round(way, seed + number).run(), range(rounds)))
    for problem in (problem for one in tried for problem in one.row.problems):
        sys.stdout.write(f"{way.name}: {problem}\n")
    terms, statuses = Counter(one.changes for one in tried), Counter(one.row.status for one in tried)
    failed = sum(bool(one.row.problems) for one in tried)
    sys.stdout.write(f"{way.name}: {rounds} rounds, {failed} failed; terms {dict(terms)}, statuses {dict(statuses)}\n")
    sys.stdout.flush()
    return not failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Gives the exit status."""
    ways = {way.name: way for way in WAYS if isinstance(way, Way)}
    parser = argparse.ArgumentParser(description="Starts and stops servers at any moment.")
    parser.add_argument("--way", action="append", choices=ways, help=f"default: {', '.join(CHOSEN)}")
    parser.add_argument("--rounds", type=int, default=20, help="starts and stops of each way")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    fine = [soak(ways[name], options.rounds, options.seed) for name in options.way or CHOSEN]
    return not all(fine)


if __name__ == "__main__":
    sys.exit(main())
