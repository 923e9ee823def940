"""The faults, one function each: up to ``yield`` it begins, behind it it is healed.

It yields how many seconds it lasts, and from when the recovery counts: from its beginning, where the others can take
over without any help, or from its healing, or from the death of a leader.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

from .fleet import Death, Fleet
from .proxy import HARMS, Proxy
from .slot import Slot

Since = Literal["began", "healed"] | Death
Fault = Callable[[Fleet, random.Random], Iterator[tuple[float, Since]]]
F = TypeVar("F", bound=Fault)

FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[F], F]:
    """Registers a kind."""

    def register(function: F) -> F:
        FAULTS[name] = function
        return function

    return register


def beyond(fleet: Fleet, rng: random.Random) -> float:
    """Longer than a lease lasts."""
    return fleet.options.ttl * rng.uniform(1.1, 1.6)


def below(fleet: Fleet, rng: random.Random) -> float:
    """Shorter than a lease lasts, even one that is due for renewal."""
    return fleet.options.ttl * rng.uniform(0.1, 0.6)


def some_time(fleet: Fleet, rng: random.Random) -> float:
    """Either of them."""
    return fleet.options.ttl * rng.uniform(0.1, 1.6)


@fault("stop, start")
def stop_and_start(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    leader = fleet.leader()
    fleet.do(leader, "stop")
    yield rng.uniform(0, 0.3), "began"
    fleet.do(leader, "start")


@fault("exit")
def leave(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    leader = fleet.leader()
    fleet.exit(leader)
    yield rng.uniform(0, 0.3), "began"
    leader.start()


@fault("resign")
def resign(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    fleet.do(fleet.leader(), "resign")
    yield 0, "began"


@fault("follower stops")
def follower_stops(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    leader = fleet.leader()
    follower = rng.choice([slot for slot in fleet.slots if slot is not leader])
    fleet.do(follower, "stop")
    yield rng.uniform(0, 0.3), "began"
    fleet.do(follower, "start")


@fault("fork")
def fork(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    fleet.do(fleet.leader(), f"fork {rng.uniform(0.02, 0.1)} {rng.uniform(0, fleet.options.ttl)}")
    yield 0, "began"


@fault("fork in C")
def fork_in_c(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    fleet.do(fleet.leader(), "fork_in_c")
    yield 0, "began"


def freeze(fleet: Fleet, seconds: float) -> Iterator[tuple[float, Since]]:
    leader = fleet.leader()
    leader.signal(signal.SIGSTOP)
    yield seconds, "began"
    leader.signal(signal.SIGCONT)


@fault("SIGSTOP beyond the lease")
def freeze_beyond(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from freeze(fleet, beyond(fleet, rng))


@fault("SIGSTOP below the lease")
def freeze_below(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from freeze(fleet, below(fleet, rng))


@fault("SIGSTOP of all")
def freeze_all(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    for slot in fleet.slots:
        slot.signal(signal.SIGSTOP)
    yield some_time(fleet, rng), "healed"
    for slot in rng.sample(fleet.slots, len(fleet.slots)):
        slot.signal(signal.SIGCONT)


@fault("stall in C beyond the lease")
def stall_beyond(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    fleet.do(fleet.leader(), f"stall {beyond(fleet, rng)}")
    yield 0, "began"


@fault("stall in C below the lease")
def stall_below(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    fleet.do(fleet.leader(), f"stall {below(fleet, rng)}")
    yield 0, "began"


def victims(fleet: Fleet, rng: random.Random) -> list[Slot]:
    """Whose network it is: the leader's, everybody's, or that of some."""
    which = rng.choice(["leader", "all", "some"])
    fleet.note(f"of {which}")
    if which == "leader":
        return [fleet.leader()]
    return fleet.slots if which == "all" else rng.sample(fleet.slots, rng.randint(1, len(fleet.slots) - 1))


def network(
    fleet: Fleet, rng: random.Random, harm: Callable[[Slot], None], seconds: float
) -> Iterator[tuple[float, Since]]:
    """A fault of the network, healed in any order."""
    chosen = victims(fleet, rng)
    for slot in chosen:
        harm(slot)
    yield seconds, "healed"
    for slot in rng.sample(chosen, len(chosen)):
        proxy_of(slot).heal()


def proxy_of(slot: Slot) -> Proxy:
    """What lies between it and the server."""
    assert slot.proxy
    return slot.proxy


@fault("leader cut off")
def cut_off(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    proxy = proxy_of(fleet.leader())
    proxy.hold(requests=True, replies=True)
    yield 1 + beyond(fleet, rng), "began"
    proxy.heal()


@fault("connection cut")
def cut(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from network(fleet, rng, lambda slot: proxy_of(slot).cut(), 0)


@fault("idle connections closed")
def close_idle(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    # By whatever has a timeout of its own. Nobody loses a lease by it, and each request finds a connection.
    how = rng.choice(HARMS)
    fleet.note(how)
    seconds = fleet.options.ttl * rng.uniform(1, 3)
    yield from network(fleet, rng, lambda slot: proxy_of(slot).close_lines(how), seconds)


@fault("idle connections closed, and the leader goes")
def close_idle_and_go(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    how, goes = rng.choice(HARMS), rng.choice(["resign", "stop"])
    fleet.note(f"{how}, {goes}")
    for slot in fleet.slots:
        proxy_of(slot).close_lines(how)
    time.sleep(rng.uniform(0.5, 2.5) * fleet.options.heartbeat)
    leader = fleet.leader()
    fleet.do(leader, goes)
    yield some_time(fleet, rng), "began"
    for slot in rng.sample(fleet.slots, len(fleet.slots)):
        proxy_of(slot).heal()
    if goes == "stop":
        fleet.do(leader, "start")


@fault("held both ways")
def hold_both(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from network(fleet, rng, lambda slot: proxy_of(slot).hold(requests=True, replies=True), some_time(fleet, rng))


@fault("requests delivered late")
def hold_requests(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from network(
        fleet, rng, lambda slot: proxy_of(slot).hold(requests=True, replies=False), some_time(fleet, rng)
    )


@fault("replies delivered late")
def hold_replies(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from network(
        fleet, rng, lambda slot: proxy_of(slot).hold(requests=False, replies=True), some_time(fleet, rng)
    )


@fault("replies lost")
def lose_replies(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from network(fleet, rng, lambda slot: proxy_of(slot).lose_replies(), some_time(fleet, rng))


@fault("connection refused")
def refuse(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from network(fleet, rng, lambda slot: proxy_of(slot).refuse(), some_time(fleet, rng))


@fault("connect hangs")
def connect_hangs(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from network(fleet, rng, lambda slot: proxy_of(slot).hang(accept=False), some_time(fleet, rng))


@fault("first read hangs")
def read_hangs(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from network(fleet, rng, lambda slot: proxy_of(slot).hang(accept=True), some_time(fleet, rng))


@fault("slow network")
def slow(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    there, back = ((0.005, rng.uniform(0.005, 0.2)) for _ in range(2))
    yield from network(fleet, rng, lambda slot: proxy_of(slot).slow(there, back), some_time(fleet, rng))
