"""The faults that kill a leader. As in ``faults``."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator

from . import server_faults as server_faults  # which has kinds of its own
from .faults import FAULTS, Since, below, fault, proxy_of, some_time
from .fleet import Death, Fleet
from .journal import now


@fault("kill -9")
def kill(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    leader = fleet.leader()
    yield rng.uniform(0, 0.3), fleet.kill(leader)
    leader.start()


@fault("leader killed with a candidate on its host")
def kill_beside(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    leader = fleet.unite()
    others = [slot for slot in fleet.slots if slot is not leader]
    stopped = rng.choice([[], [], [leader], rng.sample(others, rng.randint(1, len(others) - 1))])
    for slot in stopped:
        slot.signal(signal.SIGSTOP)
    if stopped:
        fleet.note(f"{', '.join(slot.id for slot in stopped)} stopped before")
        time.sleep(below(fleet, rng))
    yield rng.uniform(0, 0.3), fleet.kill(leader)
    for slot in stopped:
        slot.signal(signal.SIGCONT)  # and what it learned of the death is old
    leader.start()


@fault("leaders killed in a row")
def kill_in_a_row(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    # Each of them as soon as it leads, which may be before anybody watches it: then its lease runs out.
    killed, deaths = [], []
    for _ in range(rng.randint(2, len(fleet.slots) - 1)):
        killed.append(fleet.leader())
        deaths.append(fleet.kill(killed[-1]))
    yield rng.uniform(0, 0.3), deaths[-1]
    for slot in killed:
        slot.start()


@fault("flush and kill -9")
def flush_and_kill(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    # A reclaim after the flush counts for nobody else until the next heartbeat has confirmed it.
    options, leader = fleet.options, fleet.leader()
    if rng.random() < 0.3:
        fleet.kill(leader)  # its lease may be claimed before the data are lost
        fleet.primary.admin().flushall()
        death = Death(now(), claimable=False)
    else:
        flushed = now()
        fleet.primary.admin().flushall()
        time.sleep(rng.choice([0, 0, rng.uniform(0, 2.5) * options.heartbeat]))
        death = fleet.kill(leader)._replace(claimable=False)
        if death.at < flushed + int(options.heartbeat * 0.5e9):  # too early for a second heartbeat
            death = death._replace(nobody_until=flushed + int(options.data_loss * 1e9))
    yield rng.uniform(0, 0.3), death
    leader.start()


@fault("last request of the dead delivered late")
def last_request(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    # Where data were lost, it may be a reclaim, and sets the state of a lease that is over.
    leader, lost = fleet.leader(), rng.choice(["never", "before the death", "after the take-over"])
    proxy, delay = proxy_of(leader), rng.choice([0, rng.uniform(0.1, 0.25) * fleet.options.ttl])
    fleet.note(f"data lost {lost}, requests {f'{delay:.3f} s late' if delay else 'held'}")
    if delay:
        proxy.slow((delay, delay), (0, 0))
    else:
        proxy.hold(requests=True, replies=False)
    if lost == "before the death":
        fleet.primary.admin().flushall()
    time.sleep(fleet.options.heartbeat * rng.uniform(1, 2))
    fleet.kill(leader)
    if lost == "after the take-over":
        fleet.leader()
        fleet.primary.admin().flushall()
    yield rng.choice([0, some_time(fleet, rng)]), "healed"
    proxy.heal()
    leader.start()


ALL = FAULTS
"""The kinds of all three modules."""
