"""What goes wrong with a primary and its replicas. As in ``faults``."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator

from .death_faults import ALL
from .faults import Fault, Since
from .fleet import Fleet
from .sentinel import SentinelFleet

SENTINEL_FAULTS: dict[str, Fault] = {}


def fault(
    name: str,
) -> Callable[[Callable[[SentinelFleet, random.Random], Iterator[float]]], None]:
    """Registers a kind. Its recovery counts from when the primary has a replica again."""

    def register(function: Callable[[SentinelFleet, random.Random], Iterator[float]]) -> None:
        def steps(fleet: Fleet, rng: random.Random) -> Iterator[tuple[float, Since]]:
            assert isinstance(fleet, SentinelFleet)
            for seconds in function(fleet, rng):
                yield seconds, "healed"
            fleet.repaired()

        SENTINEL_FAULTS[name] = steps

    return register


for _name in ("kill -9", "exit", "SIGSTOP beyond the lease", "FLUSHALL", "server frozen below the lease"):
    SENTINEL_FAULTS[_name] = ALL[_name]


@fault("failover")
def failover(fleet: SentinelFleet, rng: random.Random) -> Iterator[float]:
    fleet.failover(rng)
    yield 0


@fault("primary killed")
def primary_killed(fleet: SentinelFleet, rng: random.Random) -> Iterator[float]:
    old = fleet.primary
    old.kill()
    fleet.replaced(old)
    yield rng.uniform(0, fleet.options.ttl)
    if rng.random() < 0.3:
        old.start()  # as a primary without data, until a sentinel notices
    else:
        fleet.follow(old)


@fault("primary killed, back at once")
def primary_restarted(fleet: SentinelFleet, rng: random.Random) -> Iterator[float]:
    old = fleet.primary
    old.kill()
    yield 0
    old.start()


@fault("primary frozen")
def primary_frozen(fleet: SentinelFleet, rng: random.Random) -> Iterator[float]:
    old = fleet.primary
    old.freeze()
    fleet.replaced(old)
    yield rng.uniform(0, fleet.options.ttl)
    old.resume()  # and takes itself for the primary, until a sentinel notices


@fault("replication cut, failover")
def replication_cut(fleet: SentinelFleet, rng: random.Random) -> Iterator[float]:
    # The new primary knows nothing of what was granted since the cut.
    old = fleet.primary
    admin = old.admin()
    admin.execute_command("ACL", "SETUSER", "repl", "off")
    admin.execute_command("CLIENT", "KILL", "TYPE", "replica")
    yield rng.uniform(0, 2 * fleet.options.ttl)
    if rng.random() < 0.5 and (leader := next((slot for slot in fleet.slots if slot.leads), None)):
        fleet.exit(leader)  # and another one is granted, if one replica is not asked for
        leader.start()
    fleet.failover(rng)
    admin.execute_command("ACL", "SETUSER", "repl", "on")


@fault("primary isolated")
def primary_isolated(fleet: SentinelFleet, rng: random.Random) -> Iterator[float]:
    # Nobody but the candidates reaches it. Whoever leads there knows nothing of the new primary.
    old = fleet.primary
    admin = old.admin()
    for user in ("repl", "default"):
        admin.execute_command("ACL", "SETUSER", user, "off")
    admin.execute_command("CLIENT", "KILL", "TYPE", "replica")
    admin.execute_command("CLIENT", "KILL", "USER", "default")
    fleet.replaced(old)
    newcomer = rng.choice([slot for slot in fleet.slots if not slot.leads])
    fleet.exit(newcomer)
    newcomer.start()  # and asks the sentinels where to go, while the others stay where they are
    yield 1 + rng.uniform(2, 4) * fleet.options.ttl
    for user in ("repl", "default"):
        admin.execute_command("ACL", "SETUSER", user, "on")


@fault("replicas killed")
def replicas_killed(fleet: SentinelFleet, rng: random.Random) -> Iterator[float]:
    replicas = fleet.replicas
    killed = rng.sample(replicas, rng.randint(1, len(replicas)))
    for server in killed:
        server.kill()
    yield rng.uniform(0, 2 * fleet.options.ttl)
    for server in killed:
        fleet.follow(server)


@fault("RESETSTAT, a replica returns")
def resetstat(fleet: SentinelFleet, rng: random.Random) -> Iterator[float]:
    # The counters of joins are reset in between, and may well come to what they were.
    server = rng.choice(fleet.replicas)
    server.kill()
    for other in fleet.servers:
        if other is not server:
            other.admin().config_resetstat()
    fleet.follow(server)
    yield rng.uniform(0, fleet.options.ttl)


@fault("RESETSTAT, failover")
def resetstat_failover(fleet: SentinelFleet, rng: random.Random) -> Iterator[float]:
    for _ in range(2):
        for server in fleet.servers:
            server.admin().config_resetstat()
        fleet.failover(rng)
        fleet.repaired()
    yield 0


@fault("replicas frozen")
def replicas_frozen(fleet: SentinelFleet, rng: random.Random) -> Iterator[float]:
    replicas = fleet.replicas
    for server in replicas:
        server.freeze()
    yield rng.uniform(0, 2 * fleet.options.ttl)
    for server in replicas:
        server.resume()


@fault("leader frozen, failover")
def leader_frozen(fleet: SentinelFleet, rng: random.Random) -> Iterator[float]:
    leader = fleet.leader()
    leader.signal(signal.SIGSTOP)
    fleet.failover(rng)
    yield rng.uniform(0, fleet.options.ttl)
    leader.signal(signal.SIGCONT)
