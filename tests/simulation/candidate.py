"""A simulated process that takes part: a clock of its own, the machine's state, one request at a time."""

from __future__ import annotations

import itertools
import math
import random
from typing import TYPE_CHECKING, Any

from django_leader.protocol import machine, requests
from django_leader.protocol.config import Timing
from django_leader.protocol.hold import DELAY, Clocks, held_since
from django_leader.protocol.records import Answer

from . import protocol
from .process import HolderWatch, Process

if TYPE_CHECKING:
    from .server import Server
    from .world import World

ALARM_ROUNDING = 1e-6
"""Seconds by which an alarm comes late, so that rounding cannot make it early."""


class Clock:
    """A clock that starts anywhere and runs a little too fast or too slow."""

    def __init__(self, now: float, shows: float, rate: float) -> None:
        self.origin, self.offset, self.rate = now, shows, rate

    def local(self, now: float) -> float:
        """What it shows at the true instant ``now``."""
        return self.offset + self.rate * (now - self.origin)

    def true(self, local: float) -> float:
        """When it shows ``local``, if it goes on as it does."""
        return self.origin + (local - self.offset) / self.rate

    def drift(self, now: float, rate: float) -> None:
        """It runs at ``rate`` from ``now`` on."""
        self.offset, self.origin, self.rate = self.local(now), now, rate


class Request:
    """One request on the wire, and its reply."""

    __slots__ = (
        "after_death",
        "answer",
        "asked_at",
        "call",
        "candidate",
        "connection",
        "executed",
        "held",
        "number",
        "reply",
        "sent",
    )  # fmt: skip

    def __init__(
        self, candidate: Candidate, call: protocol.Call, asked_at: float, sent: float, *, after_death: bool = False
    ) -> None:
        self.candidate, self.call, self.asked_at, self.sent = candidate, call, asked_at, sent
        self.number = next(candidate.requests)
        self.connection = candidate.connected
        """The server that has the connection, and in which of its lives; None if there is none yet."""
        self.answer: Answer | None = None
        """What was answered before, and is to be confirmed by replicas."""
        self.after_death = after_death
        """Whether it was sent since the answer before it named a leader that is dead."""
        self.executed = 0.0
        self.reply: Any = None
        self.held = False
        """Whether the reply, or the end of the wait for it, came while the process stood still."""


class Candidate:
    """One process in the election. ``Candidacy`` without threads: what it does with a plan is done here at once."""

    def __init__(
        self,
        world: World,
        name: str,
        process: Process,
        state: machine.State,
        rng: random.Random,
        clock: Clock,
        timing: Timing,
    ) -> None:
        self.world, self.rules, self.timing = world, world.rules, timing
        self.name, self.state, self.rng, self.clock = name, state, rng, clock
        self.me = f"{name}:{world.number():016x}"
        self.process, self.published = process, world.hosts.publishes(process, rng)
        self._holder = HolderWatch(world.hosts, process)
        self.alive, self.paused, self.listening = True, False, False
        self.connected: tuple[Server, int] | None = None
        """To which server, in which of its lives."""
        self.request: Request | None = None
        self.requests = itertools.count(1)
        self.looked: float | None = None
        """When the last script ran whose answer its machine was told."""
        self._ran = 0.0
        """When the last script ran to which it has a reply."""
        self.link = "good"
        self.held_until = 0.0
        """When what it sends is delivered, while its link is held."""
        self.hold = 0.0
        """Seconds for which its release holds."""
        self.left = False
        self.asked_once = False
        self._alarm = 0
        self._watch = False
        self._undelivered: int | None = None
        self._deadline_of_work = 0.0
        self._asleep: list[machine.AnyEvent] = []

    def leads(self, now: float) -> bool:
        """Whether ``is_leader()`` would be true at this true instant."""
        term = self.state.term
        return self.alive and term is not None and self.clock.local(now) < term.deadline

    def works(self, now: float) -> bool:
        """Whether its lease goes on and the loss callbacks of its last term have not returned."""
        return self.alive and self._undelivered is not None and self.clock.local(now) < self._deadline_of_work

    def feed(self, event: machine.AnyEvent) -> None:
        """Tells the machine, from whatever thread, and has it act on it."""
        if not self.alive:
            return
        if self.paused:
            self._asleep.append(event)
            return
        self.apply(event)
        self.go_on()

    def apply(self, event: machine.AnyEvent) -> None:
        """One step of the machine, and what is announced by it."""
        world, before, now = self.world, self.state, self.world.now
        local = self.clock.local(now)
        after = self.state = self.rules.step(before, event, local, self.timing)
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
            if self.rng.random() < world.sloppiness:
                world.after(self.rng.random() * self.timing.ttl, self._resign, new.token)
        if new and not self._watch:
            self._watch = True
            world.at(self.clock.true(new.deadline) + ALARM_ROUNDING, self._deadline)

    def _lost(self, term: machine.Term) -> None:
        if self._undelivered is not None:
            self.world.violated(f"{self.name} loses {term.token} before the loss of {self._undelivered} is delivered")
        self._undelivered, self._deadline_of_work = term
        self.world.after(self.world.callback_time(self.rng), self._delivered, term.token)

    def _delivered(self, token: int) -> None:
        if self._undelivered != token:
            self.world.violated(f"{self.name}: the loss of {token} is delivered twice")
        self._undelivered = None
        self.feed(machine.Delivered(token))

    def _resign(self, token: int) -> None:
        if not self.world.calm:
            self.feed(machine.Resign(token, "resigned" if self.rng.random() < 0.8 else "callback-failed"))

    def _deadline(self) -> None:
        """The thread that watches the deadline."""
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
        """The election thread, until it has to wait for something."""
        world = self.world
        if self.request or self.paused or not self.alive:
            return
        self.listening = False
        self._alarm += 1
        self._mourn()
        self.apply(machine.Tick())
        local = self.clock.local(world.now)
        todo = self.rules.plan(self.state, local)
        if todo.act == "leave" and (self.left or not self.asked_once):
            self.end("leaves")
        elif todo.act == "wait":
            self.listening = todo.listen and not self.state.term and local >= self.state.not_before
            if not math.isinf(todo.until):
                world.at(self.clock.true(todo.until) + ALARM_ROUNDING, self._alarmed, self._alarm)
        else:
            self.asked_once = True
            self._begin(todo.act, local)
            self.left = self.left or todo.act == "leave"

    def heard(self) -> None:
        """Something that it may watch has died. Whatever else it does comes first."""
        if self._holder.dead():
            self.go_on()

    def _begin(self, act: str, local: float, *, after_death: bool = False) -> None:
        connected = self.connected is not None and self.rng.random() < 0.9  # a wait that is cut short costs it
        shown = self._clocks().to_text()
        asker = protocol.Asker(self.me, self.timing, self.rules, self.published, self.hold, shown)
        self._ask(protocol.call(asker, act, self.state, local, connected=connected), local, after_death=after_death)

    def _clocks(self) -> Clocks:
        """Each process has a boot of its own here. Nobody sets the wall clocks of their hosts."""
        now = self.world.now
        return Clocks(f"{self.process.number:036x}", self.clock.local(now), 1_700_000_000 + now)

    def _follow(self, answer: Answer) -> bool:
        """Watches the process of whoever leads. Gives whether it is dead, which is news."""
        if self.published and answer.verdict in ("held", "expired"):
            self._holder.follow((answer.holder, answer.token), answer.process)
        else:
            self._holder.forget()
        return self._mourn()

    def _mourn(self) -> bool:
        term = self._holder.dead()
        if term is None or term == self.state.dead:
            return False
        self.apply(machine.HolderDied(*term))
        return True

    def _ask(
        self, call: protocol.Call, asked_at: float, answer: Answer | None = None, *, after_death: bool = False
    ) -> None:
        self.request = Request(self, call, asked_at, self.world.now, after_death=after_death)
        self.request.answer = answer
        self.world.send(self.request)

    def _alarmed(self, alarm: int) -> None:
        if alarm == self._alarm and self.alive:
            self.go_on()

    def answered(self, request: Request) -> None:
        """The reply is there, or its time is over. Whichever comes second comes for nothing."""
        if request is not self.request or not self.alive:
            return
        if self.paused:
            request.held = True
            return
        self.request = None
        call, answer, jitter = request.call, None, self.rng.random()
        if request.reply is None:
            self.world.note(f"{self.name}: no answer to {call.act}")
            self.connected = None
        else:
            self.connected = request.connection
            answer, goes_on = self._read(request)
            if goes_on:
                return
        if answer is not None:
            self.looked = self._ran
        self.apply(protocol.event(call, answer, request.asked_at, jitter))
        if request.reply is None and call.script == "release":
            self.apply(machine.Failed(jitter))
        self.go_on()

    def _read(self, request: Request) -> tuple[Answer | None, bool]:
        """What was answered, and whether another request has been sent because of it."""
        call = request.call
        if call.script == "WAIT":
            answer = request.answer if request.reply >= self.timing.replicas else None
            self.connected = request.connection if answer else None
            return answer, False
        if call.script == "release":
            if again := self._again(call, request.reply):
                self._ask(again, request.asked_at)
            return None, again is not None
        self._ran = request.executed
        answer = protocol.parse(call, request.reply, self.timing)
        if answer and answer.version.startswith(DELAY):
            answer = answer._replace(held_since=held_since(answer, self._clocks()))
        if self.rules.waits and protocol.waits(answer, self.timing):
            self._ask(protocol.Call(call.act, "WAIT", ()), request.asked_at, answer)
            return None, True
        if answer is None and call.then:
            self._ask(call.then, request.asked_at, after_death=request.after_death)
            return None, True
        if answer and call.act == "campaign" and not request.after_death and self._follow(answer):
            self._begin("campaign", self.clock.local(self.world.now), after_death=True)
            return None, True
        return answer, False

    def _again(self, call: protocol.Call, reply: bytes) -> protocol.Call | None:
        """A release that the server took for too old, if the lease goes on: its clock was set."""
        ended = self.state.ended
        if call.act != "release" or b"\nlate\n" not in reply or not ended or not ended.owes_release:
            return None
        left = ended.term.deadline - self.clock.local(self.world.now)
        not_after = math.floor((requests.parse(reply).at + left) * 1000)
        return (
            call._replace(act="release again", args=(*call.args[:4], not_after, *call.args[5:])) if left > 0 else None
        )

    def pause(self) -> None:
        """SIGSTOP: it does nothing, and its clock goes on."""
        self.paused = self.process.frozen = True
        self.world.hosts.changed(self.process)

    def resume(self) -> None:
        """SIGCONT: what came meanwhile is there, in an order that chance decides."""
        if not self.paused:
            return
        self.paused = self.process.frozen = False
        waiting, self._asleep = self._asleep, []
        self.rng.shuffle(waiting)
        cut = self.rng.randint(0, len(waiting))
        for event in waiting[:cut]:
            self.apply(event)
        if self.request and self.request.held:
            self.answered(self.request)
        for event in waiting[cut:]:
            self.apply(event)
        self.go_on()

    def end(self, how: str) -> None:
        """It is no longer there."""
        self.world.note(f"{self.name} {how}")
        self.alive = False
        self.world.gone(self)
