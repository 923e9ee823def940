"""The faults of the server and of its data, and of those who may touch either. As in ``faults``."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import redis

from django_leader.protocol.config import Config, Keys

from .faults import Since, below, beyond, fault, proxy_of, some_time
from .fleet import Fleet

GARBAGE = ["", "x", "-1", "nan", "inf", "1e400", "{}", "\x00\xff", "9" * 40]


@fault("server killed, back empty")
def server_restart(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    fleet.primary.kill()
    yield rng.choice([0, rng.uniform(0, 0.2), some_time(fleet, rng)]), "healed"
    fleet.server.start()


@fault("FLUSHALL")
def flush(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    for _ in range(rng.randint(1, 3)):
        fleet.primary.admin().flushall()
    yield 0, "healed"


@fault("flush and freeze")
def flush_and_freeze(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    # The nearest to two leaders: the old one knows of nothing, and its lease still runs.
    proxy = proxy_of(fleet.leader())
    proxy.hold(requests=True, replies=True)
    fleet.primary.admin().flushall()
    yield beyond(fleet, rng), "healed"
    proxy.heal()


def keys() -> Keys:
    """The keys of the election."""
    return Config().keys


@fault("keys deleted")
def delete_keys(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    admin = fleet.primary.admin()
    for key in rng.sample(keys(), rng.randint(1, len(keys()))):
        admin.delete(key)
    yield 0, "healed"


@fault("key of a wrong type")
def wrong_type(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    admin, key = fleet.primary.admin(), rng.choice(keys())
    with admin.pipeline(transaction=True) as pipe:
        pipe.delete(key)
        if rng.random() < 0.5 or key in (keys().lock, keys().info):
            pipe.sadd(key, "not", "ours")
        else:
            pipe.set(key, "not ours")
        pipe.execute()
    yield some_time(fleet, rng), "healed"
    admin.delete(key)


@fault("garbage")
def garbage(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    admin, rubbish = fleet.primary.admin(), rng.choice(GARBAGE)
    choices: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (lambda: admin.set(keys().lock, rubbish), lambda: _delete(admin, keys().lock, rubbish)),
        (lambda: admin.set(keys().lock, rubbish, px=300), lambda: None),
        (lambda: admin.set(keys().info, rubbish), lambda: None),
        (lambda: _spoil_state(admin, rng, rubbish), lambda: admin.delete(keys().state)),
        (lambda: admin.zadd(keys().candidates, {rubbish: 2e13}), lambda: admin.zrem(keys().candidates, rubbish)),
        (lambda: admin.rpush(keys().wake, rubbish, rubbish), lambda: None),
        (lambda: _spoil_inboxes(admin, rubbish), lambda: None),
    ]
    spoil, heal = rng.choice(choices)
    spoil()
    yield some_time(fleet, rng), "healed"
    heal()


def _delete(admin: Any, key: str, value: str) -> None:
    if admin.get(key) == value.encode():
        admin.delete(key)


def _spoil_state(admin: Any, rng: random.Random, rubbish: str) -> None:
    known = admin.hkeys(keys().state)
    if known:
        admin.hset(keys().state, rng.choice(sorted(known)), rubbish)


def _spoil_inboxes(admin: Any, rubbish: str) -> None:
    members = admin.zrange(keys().candidates, 0, -1)
    for member in members:
        inbox = keys().wake.removesuffix("wake").encode() + b"inbox:" + member
        admin.rpush(inbox, rubbish, '{"duplicate": 7}', '{"duplicate": "x"}', '{"wake": "x"}', "[]")
        admin.pexpire(inbox, 1000)


def freeze_server(fleet: Fleet, seconds: float) -> Iterator[tuple[float, Since]]:
    server = fleet.primary
    server.freeze()
    yield seconds, "healed"
    server.resume()


@fault("server frozen beyond the lease")
def server_frozen_beyond(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from freeze_server(fleet, beyond(fleet, rng))


@fault("server frozen below the lease")
def server_frozen_below(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from freeze_server(fleet, below(fleet, rng))


@fault("CLIENT PAUSE")
def client_pause(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    mode, admin = rng.choice(["ALL", "WRITE"]), fleet.primary.admin()
    admin.execute_command("CLIENT", "PAUSE", int(some_time(fleet, rng) * 1000), mode)
    yield 0, "healed"
    admin.set("nemesis", "1", px=1)  # is answered when the pause is over


@fault("busy script")
def busy(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    admin, seconds = fleet.primary.admin(), some_time(fleet, rng)
    endless = rng.random() < 0.5
    loop = f"local e = os.clock() + {100 if endless else seconds}; while os.clock() < e do end"

    def run() -> None:
        with contextlib.suppress(redis.ResponseError):
            admin.eval(loop, 0)

    thread = threading.Thread(target=run)
    thread.start()
    yield seconds, "healed"
    if endless:
        with contextlib.suppress(redis.ResponseError):
            fleet.primary.admin().script_kill()
    thread.join()


@fault("out of memory")
def out_of_memory(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    admin = fleet.primary.admin()
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", 1)
    yield some_time(fleet, rng), "healed"
    admin.config_set("maxmemory", 0)


@fault("denied")
def denied(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    admin = fleet.primary.admin()
    take, give = rng.choice(
        [
            (["-evalsha", "-eval"], ["+evalsha", "+eval"]),
            (["-blpop"], ["+blpop"]),
            (["-@all"], ["+@all"]),
            (["-info", "-wait"], ["+info", "+wait"]),
            (["resetkeys"], ["allkeys"]),
            (["resetpass", ">secret"], ["resetpass", "nopass"]),
            (["off"], ["on"]),
        ]
    )
    admin.execute_command("ACL", "SETUSER", "default", *take)
    if rng.random() < 0.5:
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    yield some_time(fleet, rng), "healed"
    admin.execute_command("ACL", "SETUSER", "default", *give)


@fault("clients killed")
def clients_killed(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    for _ in range(rng.randint(1, 5)):
        fleet.primary.admin().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    yield 0, "began"


@fault("scripts forgotten")
def script_flush(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    fleet.primary.admin().script_flush("SYNC")
    yield 0, "began"


CLOCK_KINDS = ("clock forward", "clock back", "clock back and forth, unseen", "clock there, seen, and back")
"""The kinds that need a server whose clock can be set."""


def step_clock(fleet: Fleet, rng: random.Random, seconds: float) -> Iterator[tuple[float, Since]]:
    # There and back between two polls of one candidate is more than anybody could notice. So it stays for longer.
    before = fleet.clock.offset
    fleet.clock.set(before + seconds)
    stays = rng.random() < 0.5
    yield some_time(fleet, rng) if stays else beyond(fleet, rng), "healed"
    if not stays:
        fleet.clock.set(before)


@fault("clock forward")
def clock_forward(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from step_clock(fleet, rng, rng.uniform(1, 60))


@fault("clock back")
def clock_back(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    yield from step_clock(fleet, rng, -rng.uniform(1, 60))


@fault("clock back and forth, unseen")
def clock_unseen(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    # Whoever comes back finds the clock as it was, and a lease that was renewed while it was not.
    leader = fleet.leader()
    away = rng.choice([slot for slot in fleet.slots if slot is not leader])
    stops = rng.random() < 0.5
    fleet.note("stopped" if stops else "cut off")
    before = fleet.clock.offset
    if stops:
        fleet.do(away, "stop")
    else:
        proxy_of(away).hold(requests=True, replies=True)
    fleet.clock.set(before - fleet.options.ttl * rng.uniform(0.3, 1.1))
    yield beyond(fleet, rng), "healed"
    fleet.clock.set(before)
    if stops:
        fleet.do(away, "start")
    else:
        proxy_of(away).heal()


@fault("clock there, seen, and back")
def clock_seen(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    # The leader renews while the clock is wrong, and is cut off; the others see that clock, and then the right one.
    proxy, before = proxy_of(fleet.leader()), fleet.clock.offset
    options = fleet.options
    step = rng.choice([-1, -1, -1, 1]) * rng.uniform(options.margin / 2, options.retry)
    fleet.note(f"by {step:.3f} s")
    fleet.clock.set(before + step)
    time.sleep(rng.uniform(0, 1.5) * options.heartbeat)
    proxy.hold(requests=True, replies=True)
    wait_for_polls(fleet)
    fleet.clock.set(before)
    yield beyond(fleet, rng), "began"
    proxy.heal()


def wait_for_polls(fleet: Fleet) -> None:
    """Waits until each follower has taken in an answer: it polls again only then, which its score among them shows."""
    admin, followers = fleet.primary.admin(), len(fleet.slots) - 1
    last: dict[str, float] = {}
    seen: Counter[str] = Counter()

    def polled() -> bool:
        for member, score in admin.zrange(keys().candidates, 0, -1, withscores=True):
            me = member.decode()
            seen[me] += last.setdefault(me, score) != score
            last[me] = score
        return sum(count >= 2 for count in seen.values()) >= followers

    fleet.wait(polled, "each follower has polled twice")


@fault("RESETSTAT")
def resetstat(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
    for _ in range(rng.randint(1, 3)):
        fleet.primary.admin().config_resetstat()
    yield 0, "healed"
