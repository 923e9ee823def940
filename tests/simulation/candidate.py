"""A simulated process that is a candidate: a clock of its own, and a session, with one request under way at a time."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from django_leader.protocol import machine
from django_leader.protocol.config import Timing, ValidConfig
from django_leader.protocol.hold import Clocks
from django_leader.protocol.orders import Order
from django_leader.protocol.records import Answer
from django_leader.protocol.session import Leave, Send
from django_leader.protocol.template import Request
from django_leader.runtime.hooks import Hooks

from .process import HolderWatch, Process

if TYPE_CHECKING:
    from .server import Server
    from .world import World

WALL = datetime(2026, 1, 1, tzinfo=timezone.utc)
"""The wall time that all candidates publish; nothing is decided by it."""
ALARM_ROUNDING = 1e-6
"""Seconds by which an alarm comes late, so that rounding cannot make it early."""
OBSERVE = ("campaign", "poll", "renew", "reclaim")
"""Scripts whose answer tells the state of the election."""
LOSS = 0.1
"""How often a connection is lost while nothing is sent on it, or because a wait at Redis is given up."""


class Clock:
    """A clock that starts anywhere and runs a little too fast or too slow."""

    def __init__(self, now: float, shows: float, rate: float) -> None:
        self.origin, self.offset, self.rate = now, shows, rate

    def local(self, now: float) -> float:
        """Return what it shows at the true instant ``now``."""
        return self.offset + self.rate * (now - self.origin)

    def true(self, local: float) -> float:
        """Return when it shows ``local`` if its rate stays the same."""
        return self.origin + (local - self.offset) / self.rate

    def drift(self, now: float, rate: float) -> None:
        """Run at ``rate`` from ``now`` on."""
        self.offset, self.origin, self.rate = self.local(now), now, rate


class Caller(Protocol):
    """Who sends requests: a candidate, or the thread of its jobs."""

    @property
    def name(self) -> str: ...
    @property
    def rng(self) -> random.Random: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def timing(self) -> Timing: ...
    @property
    def link(self) -> str: ...
    @property
    def held_until(self) -> float: ...
    @property
    def delay(self) -> float: ...
    @property
    def numbers(self) -> Iterator[int]: ...
    @property
    def connected(self) -> tuple[Server, int, int] | None: ...
    @property
    def request(self) -> Sent | None: ...
    def answered(self, sent: Sent) -> None: ...


class Sent:
    """One request on the wire, and its reply."""

    __slots__ = (
        "candidate",
        "closed",
        "connection",
        "delay",
        "executed",
        "held",
        "number",
        "reply",
        "request",
        "sent",
        "shown",
        "used",
        "wall",
    )

    def __init__(self, candidate: Caller, request: Request, sent: float) -> None:
        self.candidate, self.request, self.sent = candidate, request, sent
        self.number = next(candidate.numbers)
        self.connection = candidate.connected
        """Which server has the connection, in which of its lives, and its number; None if there is none yet."""
        self.delay = candidate.delay
        self.used = self.connection is not None
        """Whether the connection has answered before. If not, its end is an error like any other."""
        self.executed = self.wall = 0.0
        """When it was executed, and what the server's clock showed then."""
        self.reply: Any = None
        self.closed = False
        """Whether the candidate is told that the other end has closed the connection."""
        self.held = False
        """Whether the reply, or the end of the wait for it, came while the process stood still."""
        self.shown = 0.0
        """The latest time that its candidate knows the server's clock to have shown."""

    @property
    def name(self) -> str:
        """The script, or the plain command."""
        return self.request.template.name


class _Orders(Hooks):
    """Passes orders on to the thread of the jobs."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate

    def ordered(self, order: Order) -> None:
        worker = self._candidate.process.worker
        if worker and worker.candidate is self._candidate:
            worker.session.ordered(order)
            worker.go_on()


class Candidate:
    """One process in the election: what ``runtime`` does around a session, without threads and at once."""

    def __init__(
        self,
        world: World,
        name: str,
        process: Process,
        state: machine.State,
        rng: random.Random,
        clock: Clock,
        config: ValidConfig,
    ) -> None:
        self.world, self.config, self.timing = world, config, config.timing
        self.name, self.state, self.rng, self.clock = name, state, rng, clock
        self.process = process
        self.id = f"{name}:{world.number():016x}"
        self.session = world.rules.session(
            self,
            self.id,
            config,
            0,
            _Orders(self),
            random=rng.random,
            wall=lambda: WALL,
            clocks=self._clocks,
            follow=self._follow,
        )
        self.session.process = world.hosts.publishes(process, rng)
        self._holder = HolderWatch(world.hosts, process)
        self.alive, self.paused, self.idle = True, False, False
        self.wait: Request | None = None
        """The wait at Redis that has not ended for the candidate."""
        self.listening = False
        """Whether the server has that wait, and has not answered it."""
        self.connected: tuple[Server, int, int] | None = None
        """To which server, in which of its lives, and the number of the connection."""
        self.request: Sent | None = None
        self.numbers = itertools.count(1)
        self.polled: float | None = None
        """When the last script ran whose answer its machine was told."""
        self.ran: tuple[float, float] = (0.0, 0.0)
        """When the last script ran to which it has a reply, and what the server's clock showed then."""
        self.link = "good"
        self.held_until = 0.0
        """When what it sends is delivered, while its link is held."""
        self._alarm = 0
        self._watch = False
        self.successor: Candidate | None = None
        """The next candidacy of this process."""
        self.delay = 0.0
        """The delay that was asked for with a stop."""
        self._undelivered: int | None = None
        self._deadline_of_work = 0.0
        self._asleep: list[Callable[[], None]] = []

    def local(self) -> float:
        """Return what its clock shows now."""
        return self.clock.local(self.world.now)

    def leads(self, now: float) -> bool:
        """Return whether ``is_leader()`` would be true at this true instant."""
        term = self.state.term
        return self.alive and term is not None and self.clock.local(now) < term.deadline

    def works(self, now: float) -> bool:
        """Return whether its lease goes on and the loss callbacks of its last term have not returned."""
        return self.alive and self._undelivered is not None and self.clock.local(now) < self._deadline_of_work

    def feed(self, event: machine.AnyEvent) -> None:
        """Tell the machine, from any thread, and have the election thread act on it."""
        self._do(partial(self.apply, event))

    def received(self, wait: Request, element: tuple[bytes, bytes]) -> None:
        """End a wait at Redis. If the candidate has given up the wait meanwhile, the element is lost."""
        if wait is self.wait:
            self._do(partial(self._end_wait, element))

    def _do(self, action: Callable[[], None]) -> None:
        if self.paused:
            self._asleep.append(action)
        elif self.alive:
            action()
            self.go_on()

    def _end_wait(self, element: tuple[bytes, bytes] | None = None) -> None:
        if wait := self.wait:
            self.wait, self.listening = None, False
            self.session.reply(wait, element, self.local(), self.connected)

    def continue_as(self, successor: Candidate) -> None:
        """Pass on what the process knows beside the state of the machine."""
        self.successor, successor.numbers, successor.polled = successor, self.numbers, self.polled
        successor._undelivered, successor._deadline_of_work = self._undelivered, self._deadline_of_work

    def apply(self, event: machine.AnyEvent) -> None:
        """Feed an event to the machine, check what follows from it, and announce that."""
        world, before, now = self.world, self.state, self.world.now
        local = self.clock.local(now)
        if isinstance(event, machine.Stop):
            self.delay = max(self.delay, event.delay)
        if isinstance(event, machine.Campaigned | machine.Renewed):
            self.polled = self.ran[0]
            world.witnesses(self, local - event.asked_at)
        after = self.state = world.rules.step(before, event, local, self.timing)
        world.steps += 1
        if world.history is not None and not isinstance(event, machine.Tick):
            world.note(f"{self.name} at {local:.4f}: {event}")
        old, new = before.term, after.term
        if old and not (new and new.token == old.token):
            world.note(f"{self.name}: term {old.token} is over")
            self._lost(old)
        if old and new and new.token == old.token and local >= old.deadline:
            world.violated(f"{self.name} revives term {old.token} after its deadline")
        if new and not (old and new.token == old.token):
            if new.token <= before.highest_token and before.pending is None:
                world.violated(f"{self.name} leads with token {new.token}, and has known {before.highest_token}")
            world.began(self, new.token)
            if self._undelivered is not None:
                world.violated(f"{self.name} gains {new.token} before the loss of {self._undelivered} is delivered")
            world.works(self, new)
            if self.rng.random() < world.sloppiness:
                world.after(self.rng.random() * self.timing.ttl, self._resign, new.token)
        if isinstance(event, machine.Campaigned | machine.Renewed):
            world.asks(self)
        if new and not self._watch:
            self._watch = True
            world.at(self.clock.true(new.deadline) + ALARM_ROUNDING, self._deadline)

    def _lost(self, term: machine.Term) -> None:
        if self._undelivered is not None:
            self.world.violated(f"{self.name} loses {term.token} before the loss of {self._undelivered} is delivered")
        self._undelivered, self._deadline_of_work = term.token, term.deadline
        self.world.after(self.world.callback_time(self.rng), self._delivered, term.token)

    def _delivered(self, token: int) -> None:
        if self._undelivered != token:
            self.world.violated(f"{self.name}: the loss of {token} is delivered twice")
        self._undelivered, event = None, machine.Delivered(token)
        if self.alive:
            self.feed(event)
        else:  # this candidacy has ended; the next one of the process inherits what it knows
            self.state = self.world.rules.step(self.state, event, self.local(), self.timing)
        if self.successor:
            self.successor._delivered(token)

    def _resign(self, token: int) -> None:
        if not self.world.calm:
            self.feed(machine.Resign(token, "resigned" if self.rng.random() < 0.8 else "callback-failed"))

    def _deadline(self) -> None:
        """Watch the deadline, as a thread of its own does."""
        self._watch = False
        term = self.state.term
        if not self.alive or term is None:
            return
        now = self.world.now
        if self.clock.local(now) >= term.deadline:
            self.feed(machine.Tick())
        else:
            self._watch = True
            self.world.at(self.clock.true(term.deadline) + ALARM_ROUNDING, self._deadline)

    def go_on(self) -> None:
        """Do what the session says, as the election thread does, until there is something to wait for."""
        world = self.world
        if self.request or self.paused or not self.alive:
            return
        self._alarm += 1
        self._end_wait()
        if self.idle and self.rng.random() < LOSS:
            self.connected = None
        self.idle = False
        if died := self._dead():
            self.apply(machine.HolderDied(*died))
        self.apply(machine.Tick())
        todo = self.session.next(self.local(), self.connected)
        if isinstance(todo, Leave):
            self.end("leaves")
        elif isinstance(todo, Send):
            self._send(todo.request)
        elif todo.at_redis and world.server.refuses:
            self.connected = None
            self.session.failed(todo.at_redis)
            self.go_on()
        else:
            self.idle, self.wait, self.listening = True, todo.at_redis, todo.at_redis is not None
            if not math.isinf(todo.until):
                world.at(self.clock.true(todo.until) + ALARM_ROUNDING, self._alarmed, self._alarm)

    def heard(self) -> None:
        """Act on the death of the leader's process, unless a request is under way."""
        if self._holder.dead():
            self.go_on()

    def _send(self, request: Request) -> None:
        self.request = Sent(self, request, self.world.now)
        self.request.shown = self.process.witness.shown(self.world.now)
        self.world.send(self.request)

    def _clocks(self) -> Clocks:
        """Each process has a boot of its own here. Nobody sets the wall clocks of their hosts."""
        now = self.world.now
        return Clocks(f"{self.process.number:036x}", self.clock.local(now), 1_700_000_000 + now)

    def _follow(self, answer: Answer, asked_at: float) -> tuple[str, int] | None:
        if self.session.process and answer.verdict in ("held", "expired"):
            self._holder.follow((answer.holder, answer.token), answer.process)
        else:
            self._holder.forget()
        return self._dead()

    def _dead(self) -> tuple[str, int] | None:
        term = self._holder.dead()
        return term if term != self.state.dead else None

    def _alarmed(self, alarm: int) -> None:
        if alarm == self._alarm and self.alive:
            self.go_on()

    def answered(self, sent: Sent) -> None:
        """Act on the reply, or on the end of the wait for it. Only the first of the two counts."""
        if sent is not self.request or not self.alive:
            return
        if self.paused:
            sent.held = True
            return
        self.request = None
        if sent.reply is not None:
            self.connected = sent.connection
            if sent.name in OBSERVE:
                self.ran = sent.executed, sent.wall
            self.session.reply(sent.request, sent.reply, self.local(), self.connected)
        else:
            self.world.note(f"{self.name}: no answer to {sent.name}")
            self.connected = None
            if sent.closed and not (sent.request.template.once or sent.name == "WAIT"):
                self._send(sent.request)  # on a new connection, as ``Runner`` does
                return
            self.session.failed(sent.request, closed=sent.closed)
        self.go_on()

    def pause(self) -> None:
        """Stop as by SIGSTOP. The clock goes on."""
        self.paused = self.process.frozen = True
        self.world.hosts.changed(self.process)

    def resume(self) -> None:
        """Go on as by SIGCONT. What came meanwhile is there, in a random order."""
        if not self.paused:
            return
        self.paused = self.process.frozen = False
        waiting, self._asleep = self._asleep, []
        self.rng.shuffle(waiting)
        cut = self.rng.randint(0, len(waiting))
        for action in waiting[:cut]:
            action()
        if self.request and self.request.held:
            self.answered(self.request)
        for action in waiting[cut:]:
            action()
        self.process.wake_up()
        self.go_on()

    def end(self, how: str) -> None:
        """Remove the candidate, as at the end of its process or candidacy."""
        self.world.note(f"{self.name} {how}")
        self.alive = False
        self.world.gone(self)
