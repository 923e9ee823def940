"""What can go wrong, as a list that is drawn from a seed, and from which any part can be left out.

Left out on purpose, since the protocol does not promise to survive it: two opposite steps of the server's clock within
a retry interval, between two looks of one candidate (``World.may_step``), clocks that are more than the margin wrong
over a lease, and a running process that is cloned. And a token may go back if Redis has forgotten it and its clock has
been set back to before it, so that only the processes know it (``World.began``): who was not there cannot.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from django_leader import machine

from . import protocol
from .candidate import Candidate
from .process import LATEST
from .server import Server
from .setup import Setup
from .world import World

WEIGHTS = {
    # of candidates
    "crash": 6,
    "crash-leader": 14,
    "pause": 6,
    "resign": 4,
    "callback-failed": 1,
    "stop": 4,
    "fork": 2,
    "broken": 1,
    "drift": 3,
    "link-cut": 4,
    "link-mute": 4,
    "link-lossy": 4,
    "link-slow": 4,
    "link-late": 5,
    # of the server
    "restart-empty": 4,
    "restart-old": 4,
    "failover": 4,
    "flush": 4,
    "lose-key": 4,
    "lose-lock": 4,
    "lose-state": 4,
    "clock-little": 5,
    "clock-forth": 3,
    "clock-back": 3,
    "server-drift": 2,
    "hang": 4,
    "down": 3,
    "refuse": 2,
    # of replicas
    "promote": 6,
    "split": 8,
    "lag": 4,
    "rejoin": 4,
    "flap": 4,
}
KINDS = [*WEIGHTS]
WITH_A_DEATH = ("flush", "restart-empty", "restart-old", "failover", "promote", "split", "link-late", "pause", "lose-state")
"""Faults that are drawn together with the death of a leader, when what is left of its lease may be claimed."""
OF_REPLICAS = {"promote", "split", "lag", "rejoin", "flap"}


class Fault(NamedTuple):
    """One fault: when, what, whom it hits (a number that is taken modulo), and two measures between 0 and 1."""

    at: float
    kind: str
    who: int
    size: float
    other: float


def draw_faults(setup: Setup, only: Sequence[str] = ()) -> list[Fault]:
    """The faults of an episode, in order; ``only`` of these kinds, if some are named."""
    rng = random.Random(f"faults {setup.seed}")
    ttl = setup.timing.ttl
    kinds = [*only] or rng.sample(KINDS, rng.randint(1, len(KINDS)))
    weights = [WEIGHTS[kind] for kind in kinds]
    spacing = ttl * rng.choice([0.1, 0.3, 1.0, 2.0])
    shortest = min(timing.ttl for timing in setup.timings)
    together = rng.choice([0.0, 0.3, 0.7])
    faults, now = [], ttl * rng.random()
    for _ in range(rng.randint(1, 30)):
        now += rng.expovariate(1 / (shortest / 10 if rng.random() < together else spacing))
        kind = rng.choices(kinds, weights)[0]
        faults.append(Fault(now, kind, rng.randrange(60), rng.random(), rng.random()))
        if kind.startswith("clock") and "link-cut" in kinds and rng.random() < 0.5:
            # Whoever has just been cut off may still lead when the others see what the clock shows.
            before = max(now - rng.random() * shortest, 0.0)
            faults.append(Fault(before, "link-cut", rng.randrange(60), rng.random() * 0.1, rng.random()))
        also = [other for other in WITH_A_DEATH if other in kinds]
        if kind == "crash-leader" and also and rng.random() < 0.7:
            near = max(now + rng.uniform(-2, 1) * LATEST, 0.0)
            faults.append(Fault(near, rng.choice(also), rng.randrange(60), rng.random(), rng.random()))
    return sorted(faults)


class Mischief:
    """Applies faults to a world."""

    def __init__(self, world: World) -> None:
        self.world, self.ttl = world, world.timing.ttl
        self._links: dict[Candidate, int] = {}
        self._last = 0

    def apply(self, fault: Fault) -> None:
        """One fault, if it is possible now."""
        kind, _, variant = fault.kind.partition("-")
        if fault.kind == "crash-leader":
            self._leader(fault)
        elif fault.kind in ("crash", "pause", "resign", "callback-failed", "stop", "fork", "broken", "drift") or (
            kind == "link"
        ):
            if self.world.candidates:
                self._candidate(fault, self.world.candidates[fault.who % len(self.world.candidates)], variant)
        else:
            self._server(fault)

    def _candidate(self, fault: Fault, who: Candidate, variant: str) -> None:
        world, ttl = self.world, self.ttl
        term = who.state.term
        world.fault(f"{fault.kind} of {who.name}")
        match fault.kind:
            case "crash":
                self._crash(fault, who)
            case "pause":
                who.pause()
                world.after(fault.size * 2.5 * ttl, who.resume)
            case "resign" | "callback-failed" if term:
                who.feed(machine.Resign(term.token, "resigned" if fault.kind == "resign" else "callback-failed"))
            case "broken" if term:
                who.feed(machine.Broken(term.token))
            case "stop":
                who.feed(machine.Stop())
                self._again(fault, who)
            case "fork":
                self._fork(who)
            case "drift":
                who.clock.drift(world.now, world.rate(world.rng))
            case _ if fault.kind.startswith("link"):
                self._links[who] = self._links.get(who, 0) + 1
                who.link = variant
                world.after(fault.size * 2 * ttl, self._mend, who, self._links[who])

    def _leader(self, fault: Fault) -> None:
        """Whoever leads dies, at best where somebody can see it."""
        leaders = [who for who in self.world.candidates if who.leads(self.world.now)]
        if leaders:
            self.world.fault(f"{fault.kind} {leaders[0].name}")
            self._crash(fault, leaders[0])

    def _crash(self, fault: Fault, who: Candidate) -> None:
        who.end("crashes")
        self.world.hosts.die(who.process)
        self.world.after(fault.size * self.ttl, self.world.start, who.name)

    def _mend(self, who: Candidate, count: int) -> None:
        if self._links[who] == count:
            who.link = "good"

    def _fork(self, who: Candidate) -> None:
        child = self.world.start(f"{who.name}'")
        child.clock = who.clock
        if not self.world.rules.fork_guard:
            child.state, child.me = who.state, who.me

    def _again(self, fault: Fault, who: Candidate) -> None:
        """Once the candidacy has ended, the same process or another one takes part again."""
        if who.alive:
            self.world.after(0.1 * self.ttl, self._again, fault, who)
        else:
            same = fault.other < 0.5
            if not same:
                self.world.hosts.die(who.process)
            self.world.after(fault.size * self.ttl, self.world.start, who.name, who if same else None)

    def _server(self, fault: Fault) -> None:
        world, server, ttl = self.world, self.world.server, self.ttl
        if fault.kind.startswith("clock"):
            self._clock(fault)
            return
        world.fault(fault.kind)
        match fault.kind:
            case "server-drift":
                server.drift(world.now, 1 + (fault.size - 0.5) * world.setup.drift)
            case "hang":
                server.hung_until = world.now + fault.size * 1.5 * ttl
            case "down":
                self._down(fault.size * 1.5 * ttl)
            case "refuse":
                server.refuses = "OOM command not allowed when used memory > 'maxmemory'."
                world.after(fault.size * ttl, self._accept)
            case kind if kind in OF_REPLICAS:
                self._replicas(fault)
            case _:
                self._data(fault)
                self._resynchronise()

    def _clock(self, fault: Fault) -> None:
        size = self.world.setup.timing.margin if fault.kind == "clock-little" else 3 * self.ttl
        back = fault.kind == "clock-back" or (fault.kind == "clock-little" and fault.other < 0.5)
        seconds = -size * fault.size if back else size * fault.size
        if self.world.may_step(seconds):
            self.world.fault(f"{fault.kind} by {seconds:.4f} s")
            self.world.step_clock(seconds)

    def _data(self, fault: Fault) -> None:
        server = self.world.server
        store, self.world.lost = server.store, True
        match fault.kind:
            case "restart-empty":
                store.load(({}, {}))
                server.restarted()
                self._down(fault.other * 0.3 * self.ttl)
            case "restart-old" | "failover":
                # A replica is behind by little, a backup by much; both start as somebody else.
                kept = list(self.world.snapshots)
                if kept:
                    behind = int(fault.size * (3 if fault.kind == "failover" else len(kept)))
                    store.load(kept[max(len(kept) - 1 - behind, 0)][1])
                server.restarted()
                self._down(fault.other * 0.3 * self.ttl)
            case "flush":
                store.load(({}, {}))
            case "lose-key" if store.values:
                store.cmd_del(sorted(store.values)[fault.who % len(store.values)])
            case "lose-lock":
                store.cmd_del(protocol.LOCK)
            case "lose-state":
                store.cmd_del(protocol.STATE)

    def _resynchronise(self) -> None:
        """Whatever became of the primary's data becomes of its replicas', or the other way round."""
        cluster = self.world.cluster
        for node in cluster.replicas(cluster.primary):
            if cluster.rng.random() < 0.7:
                cluster.join(node, cluster.primary)

    def _replicas(self, fault: Fault) -> None:
        world, cluster = self.world, self.world.cluster
        replicas = cluster.replicas(cluster.primary)
        if not replicas:
            return
        one = replicas[fault.who % len(replicas)]
        match fault.kind:
            case "lag":
                one.linked = False
                world.after(fault.size * self.ttl, self._follow, one, one.lives)
            case "rejoin":
                cluster.join(one, cluster.primary)
            case "flap":
                # It follows the old primary again for a moment, which the new one does not notice.
                for old in cluster.old():
                    cluster.join(one, old, unnoticed=True)
                    world.after(fault.size * self.ttl / 2, self._join, one)
            case _:
                self._promote(fault)

    def _promote(self, fault: Fault) -> None:
        """The old primary dies, or goes on with some replicas and some candidates and knows nothing of it."""
        world, cluster, old = self.world, self.world.cluster, self.world.server
        world.lost, split = True, fault.kind == "split"
        longest = 2 * (self.ttl + world.timing.quarantine) if split else self.ttl
        for node in cluster.promote(0.7 if split else 0.0):
            world.after(world.rng.random() * fault.size * longest, self._join, node)
        old.down = old.down or not split
        for candidate in world.candidates:
            if world.rng.random() < 0.5:
                candidate.connected = None

    def _follow(self, node: Server, life: int) -> None:
        if node.lives == life:
            node.linked = True

    def _join(self, node: Server) -> None:
        if node.master is not self.world.cluster.primary:
            self.world.fault(f"join of {node.name}")
            self.world.cluster.join(node, self.world.cluster.primary)

    def _accept(self) -> None:
        self.world.server.refuses = ""

    def _down(self, seconds: float) -> None:
        self.world.server.down = True
        self._last += 1
        self.world.after(seconds, self._up, self._last)

    def _up(self, number: int) -> None:
        if number == self._last:
            self.world.server.down = False

    def calm(self) -> None:
        """Everything works again from now on."""
        world, server = self.world, self.world.server
        world.calm, world.troubled = True, world.now
        for node in world.cluster.nodes:
            node.hung_until, node.refuses, node.down = 0.0, "", False
            if node is not server:
                node.linked = True
                self._join(node)
        for candidate in list(world.candidates):
            candidate.link = "good"
            candidate.resume()
        if all(candidate.state.stopping for candidate in world.candidates):
            world.start("z")
