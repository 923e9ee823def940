"""What each kind of fault does to the candidates, the network, the server and its data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

from django_leader.protocol import machine

from . import protocol
from .candidate import Candidate
from .kinds import OF_JOBS, OF_REPLICAS, UNDO, Fault
from .process import NOT_AFTER
from .server import Server
from .world import World


class Mischief:
    """Applies faults to a world."""

    def __init__(self, world: World) -> None:
        self.world, self.ttl = world, world.timing.ttl
        self._links: dict[Candidate, int] = {}
        self._last = 0
        self._opposites: dict[int, Callable[[], object]] = {}
        """By number of the fault, what undoes it."""
        self._away = 0.0
        """Until when a replica follows an old primary for a moment. Counters are reset only afterwards."""

    def apply(self, fault: Fault) -> None:
        """One fault, if it is possible now."""
        kind, _, variant = fault.kind.partition("-")
        if kind == UNDO:
            if undo := self._opposites.pop(fault.number, None):
                self.world.fault(UNDO)
                undo()
        elif fault.kind in ("crash-leader", "cut-leader", "last-words", "late-claims"):
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
                world.after(fault.lasts(2.5 * ttl), who.resume)
                self._opposites[fault.number] = who.resume
            case "resign" | "callback-failed" if term:
                who.feed(machine.Resign(term.token, "resigned" if fault.kind == "resign" else "callback-failed"))
            case "broken" if term:
                who.feed(machine.DeadlineObserved(term.token))
            case "stop":
                who.feed(machine.Stop(fault.lasts(2 * ttl) if fault.other * 10 % 1 < 0.3 else 0.0))
                self._again(fault, who)
            case "fork":
                self._fork(who)
            case "drift":
                rate = who.clock.rate
                self._opposites[fault.number] = lambda: who.clock.drift(world.now, rate)
                who.clock.drift(world.now, world.rate(world.rng))
            case _ if fault.kind.startswith("link"):
                self._link(fault, who, variant)

    def _link(self, fault: Fault, who: Candidate, variant: str) -> None:
        self._links[who] = self._links.get(who, 0) + 1
        who.link = variant
        self._later(fault, fault.lasts(2 * self.ttl), partial(self._mend, who, self._links[who]))

    def _leader(self, fault: Fault) -> None:
        """Whoever leads dies, at best where somebody can see it."""
        leaders = [who for who in self.world.candidates if who.leads(self.world.now)]
        if leaders:
            self.world.fault(f"{fault.kind} {leaders[0].name}")
            if fault.kind == "last-words":
                self._last_words(fault, leaders[0])
            elif fault.kind == "late-claims":
                self._late_claims(fault, leaders[0])
            elif fault.kind == "cut-leader":
                self._link(fault, leaders[0], "cut")
            else:
                self._crash(fault, leaders[0])

    def _last_words(self, fault: Fault, who: Candidate) -> None:
        """Its last requests are under way until it is dead, another one leads, and the data are lost."""
        world, rng, term = self.world, self.world.rng, who.state.term
        assert term
        left = who.clock.true(term.deadline) - world.now
        dies, heard = left * rng.uniform(0.3, 1), left * rng.uniform(0.8, 1)
        for candidate in world.candidates:
            if candidate is who or rng.random() < 0.3:
                candidate.link, candidate.held_until = "held", world.now + heard
                self._links[candidate] = self._links.get(candidate, 0) + 1
                world.after(heard, self._mend, candidate, self._links[candidate])
        if fault.size < 0.7:
            world.after(rng.random() * dies, who.feed, machine.Resign(term.token, "resigned"))
        world.after(dies, self._dies, fault, who)
        world.after(min(dies + NOT_AFTER * (1 + fault.other), heard), self.apply, fault._replace(kind="flush"))

    def _late_claims(self, fault: Fault, who: Candidate) -> None:
        """Its claims are under way until they are nearly too old, and it resigns or dies meanwhile."""
        world, rng, worker, term = self.world, self.world.rng, who.process.worker, who.state.term
        if worker and term:
            late = fault.lasts(self.ttl)
            worker.late_until = world.now + late
            before = world.now + max(late - rng.random() * worker.timing.operation, 0.0)
            if rng.random() < 0.7:
                world.at(before, who.feed, machine.Resign(term.token, "resigned"))
            else:
                world.at(before, self._dies, fault, who)

    def _dies(self, fault: Fault, who: Candidate) -> None:
        if who.alive:
            self._crash(fault, who)

    def _crash(self, fault: Fault, who: Candidate) -> None:
        for candidacy in self._candidacies(who):
            candidacy.end("crashes")
        self.world.hosts.die(who.process)
        self._later(fault, fault.lasts(self.ttl), partial(self.world.start, who.name))

    def _later(self, fault: Fault, seconds: float, action: Callable[[], object]) -> None:
        """What ends a fault, which happens once: at its time, or before that as its opposite."""
        ended: list[bool] = []

        def end() -> None:
            if not ended:
                ended.append(True)
                action()

        self.world.after(seconds, end)
        self._opposites[fault.number] = end

    def _candidacies(self, who: Candidate) -> list[Candidate]:
        return [candidate for candidate in self.world.candidates if candidate.process is who.process]

    def _mend(self, who: Candidate, count: int) -> None:
        if self._links[who] == count:
            who.link = "good"

    def _fork(self, who: Candidate) -> None:
        child = self.world.start(f"{who.name}'")
        child.clock = who.clock
        if not self.world.rules.fork_guard:
            child.state, child.session = who.state, copy.copy(who.session)
            child.session._shared = child

    def _again(self, fault: Fault, who: Candidate) -> None:
        """Once the candidacy has ended, the same process or another one is a candidate again."""
        if who.alive:
            self.world.after(0.1 * self.ttl, self._again, fault, who)
        else:
            same = fault.other < 0.5 and not who.process.dead
            if not same and not self._candidacies(who):
                self.world.hosts.die(who.process)
            self._later(fault, fault.lasts(self.ttl), partial(self.world.start, who.name, who if same else None))

    def _server(self, fault: Fault) -> None:
        world, server, ttl = self.world, self.world.server, self.ttl
        if fault.kind.startswith("clock"):
            self._clock(fault)
            return
        world.fault(fault.kind)
        match fault.kind:
            case "server-drift":
                rate = server.rate
                self._opposites[fault.number] = lambda: server.drift(world.now, rate)
                server.drift(world.now, 1 + (fault.size - 0.5) * world.setup.drift)
            case "hang":
                server.hung_until = world.now + fault.lasts(1.5 * ttl)
                self._opposites[fault.number] = lambda: setattr(server, "hung_until", 0.0)
            case "down":
                self._down(fault.lasts(1.5 * ttl))
                self._opposites[fault.number] = partial(self._up, self._last)
            case "refuse":
                server.refuses = "OOM command not allowed when used memory > 'maxmemory'."
                self._later(fault, fault.lasts(ttl), self._accept)
            case "order":
                world.operators.orders(fault)
            case kind if kind in OF_REPLICAS:
                self._replicas(fault)
            case _:
                self._data(fault)
                self._resynchronise()

    def _clock(self, fault: Fault) -> None:
        little = fault.kind == "clock-little"
        size = self.world.setup.timing.margin * fault.size if little else fault.lasts(3 * self.ttl)
        size = {"clock-second": fault.size, "clock-hour": 3600 * (0.5 + fault.size)}.get(fault.kind, size)
        back = fault.kind == "clock-back" or (fault.kind != "clock-forth" and fault.other < 0.5)
        seconds = -size if back else size
        if self.world.may_step(seconds):
            self.world.fault(f"{fault.kind} by {seconds:.4f} s")
            self.world.step_clock(seconds)
            self._opposites[fault.number] = partial(self._step_back, -seconds)

    def _step_back(self, seconds: float) -> None:
        """The clock goes back to where it was, as soon as everybody has seen where it is."""
        world = self.world
        if world.may_step(seconds):
            world.fault(f"clock-undone by {seconds:.4f} s")
            world.step_clock(seconds)
        elif not world.calm:
            world.after(0.05 * world.timing.retry, self._step_back, seconds)

    def _data(self, fault: Fault) -> None:
        server = self.world.server
        store, had, gone = server.store, set(server.store.values), set[bytes]()
        if fault.kind in ("flush", "restart-empty"):  # and then it is restored from a backup
            self._opposites[fault.number] = partial(self._server, fault._replace(kind="restart-old"))
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
            case "lose-slots":
                store.cmd_del(protocol.SLOTS)
            case "forge-record":
                job = self.world.setup.jobs[fault.who % len(self.world.setup.jobs)]
                store.cmd_hset(protocol.SLOTS, b"job:" + job.name.encode(), b"1 last=5")
                gone.add(protocol.SLOTS)
        gone |= had - store.values.keys()
        whole = len(gone) > 1 or "restart" in fault.kind or fault.kind == "failover"
        if whole or gone & {protocol.STATE, protocol.SLOTS}:
            self.world.loses(state=whole or protocol.STATE in gone)
        self.world.lost = self.world.lost or fault.kind not in OF_JOBS

    def _resynchronise(self) -> None:
        """Whatever became of the primary's data becomes of its replicas', or the other way round."""
        cluster = self.world.cluster
        for node in cluster.replicas(cluster.primary):
            if cluster.rng.random() < 0.7:
                cluster.join(node, cluster.primary)

    def _replicas(self, fault: Fault) -> None:
        cluster = self.world.cluster
        replicas = cluster.replicas(cluster.primary)
        if not replicas:
            return
        one = replicas[fault.who % len(replicas)]
        match fault.kind:
            case "lag":
                one.linked = False
                self._later(fault, fault.lasts(self.ttl), partial(self._follow, one, one.lives))
            case "rejoin":
                cluster.join(one, cluster.primary)
                self._opposites[fault.number] = partial(self._leave, fault, one)
            case "leave":
                self._leave(fault, one)
            case "resetstat":
                if self.world.now > self._away:
                    self._reset(round(fault.other))
                    self._opposites[fault.number] = partial(self._reset, None)
            case "flap":
                # It follows the old primary again for a moment, which the new one does not notice.
                for old in cluster.old() if not self.world.faults["resetstat"] else ():
                    cluster.join(one, old, unnoticed=True)
                    self._away = max(self._away, self.world.now + fault.lasts(self.ttl / 2))
                    self._later(fault, fault.lasts(self.ttl / 2), partial(self._join, one))
            case _:
                self._promote(fault)

    def _reset(self, after_join: int | None) -> None:
        for node in self.world.cluster.nodes:
            node.reset_counters(after_join)

    def _leave(self, fault: Fault, node: Server) -> None:
        """A replica is switched off, and joins again."""
        if node.master is not None:
            self.world.cluster.leave(node)
            self._later(fault, fault.lasts(self.ttl), partial(self._join, node))

    def _promote(self, fault: Fault, to: Server | None = None) -> None:
        """The old primary dies, or goes on with some replicas and some candidates and knows nothing of it."""
        world, cluster, old = self.world, self.world.cluster, self.world.server
        split = fault.kind == "split"
        world.loses()
        longest = 2 * (self.ttl + world.timing.quarantine) if split else self.ttl
        if to is None:
            self._opposites[fault.number] = partial(self._promote, fault._replace(kind="promote"), old)
        world.ledger.set_back()  # by the difference of two servers' clocks
        for node in cluster.promote(0.7 if split else 0.0, to):
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
