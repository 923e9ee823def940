"""``python -m tests.process.beats --handovers 300``: beats that are killed, stopped and frozen, and what was sent.

Each second a task is due. Some fleets of two beats each have a Redis of their own, and another one as their broker.
``--peers`` kills the beats of other packages, too, and measures when the next message comes.
"""

from __future__ import annotations

import argparse
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tests.support.servers import RedisServer, program

from .faults import KINDS, Fault, inject
from .fleet import fleet_of_two, stop
from .peers import PEERS, compare
from .verdict import Verdict, judge, table

SCHEDULERS = ["PersistentScheduler", "DatabaseScheduler"]
DURABLE = "--appendonly", "yes", "--appendfsync", "always"


class Task(NamedTuple):
    """What one fleet does."""

    scheduler: str
    server: RedisServer
    broker: RedisServer
    handovers: int
    seed: int
    ttl: float


def run(task: Task) -> Verdict:
    """Inject faults until there were enough hand-overs."""
    chance, done = random.Random(task.seed), list[Fault]()
    with fleet_of_two(task.server, task.scheduler, task.broker, ttl=task.ttl) as fleet:
        while sum(fault.handed_over for fault in done) < task.handovers:
            done += inject(fleet, chance.choice(KINDS), chance)
            if len(done) % 10 == 0:
                print(f"{task.scheduler}, seed {task.seed}: {len(done)} faults", file=sys.stderr)
        stop(fleet)
        return judge(fleet, done)


def parsed() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.process.beats", description=__doc__)
    parser.add_argument("--handovers", type=int, default=300, help="changes of leader, of all fleets (default: 300)")
    parser.add_argument("--scheduler", choices=SCHEDULERS, help="of all fleets (default: of every other fleet)")
    parser.add_argument("--fleets", type=int, default=2, help="that run at the same time (default: 2)")
    parser.add_argument("--seed", type=int, help="of the faults and their instants, in the first fleet")
    parser.add_argument("--ttl", type=float, default=1.0, help="seconds of the lease (default: 1)")
    parser.add_argument("--peers", action="store_true", help="compare the time to the next message with other packages")
    parser.add_argument("--kills", type=int, default=5, help="of each peer in each fleet (default: 5)")
    parser.add_argument("--limit", type=float, default=1900, help="seconds to wait for a peer (default: 1900)")
    parser.add_argument("--only", choices=[peer.name for peer in PEERS], nargs="+", default=[], help="these peers")
    options = parser.parse_args()
    options.path = program("redis-server") or program("valkey")
    if options.path is None:
        parser.error("there is no redis-server on the path")
    return options


def main() -> int:
    """Run what the command line says. Return 1 if a tick was lost or doubled."""
    options = parsed()
    if options.peers:
        print(compare(options.path, options.only, options.kills, options.limit, options.fleets))
        return 0
    seed = random.randrange(10**6) if options.seed is None else options.seed
    tasks = [
        Task(
            options.scheduler or SCHEDULERS[number % 2],
            RedisServer(options.path).start(),
            RedisServer(options.path, *DURABLE).start(),
            options.handovers // options.fleets + (number < options.handovers % options.fleets),
            seed + number,
            options.ttl,
        )
        for number in range(options.fleets)
    ]
    try:
        with ThreadPoolExecutor(options.fleets) as pool:
            verdicts = list(pool.map(run, tasks))
    finally:
        for task in tasks:
            task.server.close()
            task.broker.close()
    schedulers = sorted({task.scheduler for task in tasks}, reverse=True)
    print(f"{' and '.join(schedulers)}, a tick each second, {options.fleets} fleets, seed {seed}\n\n{table(verdicts)}")
    return 1 if any(verdict.total.lost or verdict.total.doubled for verdict in verdicts) else 0


if __name__ == "__main__":
    raise SystemExit(main())
