"""The actions that the machine decides on, for the thread of a candidacy that holds the I/O lock.

NOT guaranteed here: that an action was carried out. A request that raises ``RedisUnavailable`` may have been executed.
The caller then feeds ``Failed`` to the machine, and time does the rest.

- A leader sends one request per heartbeat, and waits locally in between, so that its connection is free when it must
  release. The answer says whether there is a message in its inbox.
- Meanwhile a candidate watches the process of a leader on its host, and feeds the death of that process to the machine.
- A follower polls once per retry interval. Its wait at Redis for a wake-up is sent in one piece with the poll, unless
  something is due before that wait would end. A follower in a large fleet polls more rarely (``pace``). The lease that
  it has seen may be over before such a wait would end, so it sends the wait only when the poll is answered.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol import machine, pace
from django_leader.protocol.config import ValidConfig
from django_leader.protocol.hold import DELAY, held_since
from django_leader.protocol.records import Answer, LeaderInfo, Preconditions, other_project, utc_now
from django_leader.redis.channel import SERVER_TIMER
from django_leader.redis.lease import Lease
from django_leader.system import clock
from django_leader.system.log import log
from django_leader.system.pidfd import HolderWatch, Identity, boot_time, clocks, own, same_boot
from django_leader.system.waker import Waker

from .diagnostics import Diagnostics

SECOND_CHANCE = 0.01
"""Seconds for which a leader that leaves waits after it has woken a follower, before it wakes another one: several
times what a hand-over takes."""
QUEUE = 32
"""About how many followers wait for a wake-up at a time. After each poll it is drawn anew which ones. Some servers need
a time that grows with the square of their number to wake one of them: 5 ms for 1,000, 0.1 s for 3,000."""


def over_before(state: machine.State, until: float) -> bool:
    """Return whether the lease may be over before a wait until ``until`` returns, late by the server's timer. Pure."""
    return until + 2 * SERVER_TIMER >= state.watch.expires_at


class Actions:
    """The actions of one candidacy, for one thread at a time.

    ``state`` returns what the machine knows, ``apply`` feeds it an event.
    """

    def __init__(
        self,
        lease: Lease,
        candidate_id: str,
        config: ValidConfig,
        waker: Waker,
        advice: Diagnostics,
        pid: int,
        state: Callable[[], machine.State],
        apply: Callable[[machine.AnyEvent], None],
    ) -> None:
        self._lease, self._candidate_id, self._config, self._timing = lease, candidate_id, config, config.timing
        self._waker, self._advice, self._pid = waker, advice, pid
        self._state, self._apply = state, apply
        self._retry_blpop_at, self._blpop_refused = 0.0, False
        self._advised = self._released = False
        self._prepared_at, self._candidates = -1, 0
        self._holder = HolderWatch()
        self._identity: Identity | None = None
        self._compared: str | None = ""
        """The leader whose project was asked for last; None once a leader has published its project."""

    def begin(self) -> None:
        """Determine the identity of this process, before the first campaign publishes it. Local."""
        if self._config.same_host_takeover and (identity := own()):
            self._identity, self._lease.process = identity, identity.to_text()
            self._prepared_at = -1

    def _begin_again(self) -> None:
        """Have the next request publish the process anew if the wall clock was stepped. Local, 1 µs if it was not."""
        identity = self._identity
        if identity and not same_boot(identity, identity._replace(booted=boot_time())):
            self.begin()

    def end(self) -> None:
        """Close what is held in this process; also in a forked child. Local."""
        self._holder.forget()

    def do(self, todo: machine.Plan, hold: float) -> float:
        """Carry out one decision. Return the seconds to wait locally.

        ``hold``: seconds for which a release keeps the lease. Raise ``RedisUnavailable``.
        """
        state, asked_at = self._state(), clock.now()
        if todo.act in ("campaign", "poll"):
            self._campaign(state, asked_at, poll=todo.act == "poll")
        elif todo.act in ("renew", "confirm") and (term := state.term or state.pending):
            self._renew(state, term, asked_at, confirm=todo.act == "confirm")
        elif todo.act == "release":
            try:
                self._release(state, asked_at, hold)
            finally:
                self._apply(machine.Released())
        else:
            return self._wait(state, todo, asked_at)
        return 0.0

    def leave(self) -> None:
        """Remove this candidate from the candidates in Redis, which wakes a follower if there is no leader.

        Raise ``RedisUnavailable``.
        """
        self._lease.channel.cancel_wait()
        if self._released:
            time.sleep(SECOND_CHANCE)
        preconditions = machine.preconditions(self._state(), clock.now(), self._timing)
        self._lease.release(self._candidate_id, 0, "", preconditions, leave=True)

    def _release(self, state: machine.State, asked_at: float, hold: float) -> None:
        if state.ended and state.ended.owes_release:
            preconditions, (token, deadline) = machine.preconditions(state, asked_at, self._timing), state.ended.term
            how: dict[str, Any] = {"hold": hold, "clocks": clocks().to_text() if hold else "", "deadline": deadline}
            self._lease.release(self._candidate_id, token, state.ended.reason, preconditions, leave=False, **how)
            self._released = not hold

    def _campaign(self, state: machine.State, asked_at: float, *, poll: bool) -> None:
        answer = self._ask(state, asked_at, poll=poll)
        duplicate = answer.duplicate
        if answer.verdict != "granted" and self._holder_is_dead(answer, asked_at):
            state, asked_at = self._state(), clock.now()
            answer = self._ask(state, asked_at, poll=False)
        self._answered(machine.Campaigned(asked_at, answer, random.random()))
        if answer.verdict == "granted":
            self._holder.forget()
            self._waker.also = None
        if duplicate:
            self._lease.post(duplicate, {"duplicate": self._candidate_id})

    def _ask(self, state: machine.State, asked_at: float, *, poll: bool) -> Answer:
        if poll:
            until = asked_at + self._timing.retry
            crowded = pace.usual(self._candidates, self._timing) > self._timing.retry
            waits = (
                not over_before(state, until)
                and not crowded
                and not self._blpop_refused
                and asked_at >= state.not_before
            )
            if answer := self._lease.poll(
                self._candidate_id, state.highest_token, until if waits else None, wake=self._queues()
            ):
                return answer
        answer = self._lease.campaign(
            self._candidate_id, machine.preconditions(state, asked_at, self._timing), self._info(state)
        )
        if answer.version.startswith(DELAY):
            return answer._replace(held_since=held_since(answer, clocks()))
        return answer

    def _holder_is_dead(self, answer: Answer, asked_at: float) -> bool:
        """Watch the process that leads, or whose lease has run out. Return whether it is dead."""
        if self._lease.process and answer.verdict in ("held", "expired"):
            self._holder.follow((answer.holder, answer.token), answer.process, asked_at, answer.version)
        else:
            self._holder.forget()
        return self.report_holder_death()

    def report_holder_death(self) -> bool:
        """Feed the death of the leader's process to the machine, once. Return whether this call did."""
        term = self._holder.dead()
        self._waker.also = self._holder.fd
        if term is None or term == self._state().dead:
            return False
        self._apply(machine.HolderDied(*term))
        return True

    def _renew(self, state: machine.State, term: machine.Term, asked_at: float, *, confirm: bool) -> None:
        preconditions = machine.preconditions(state, asked_at, self._timing)
        answer = self._lease.renew(self._candidate_id, term.token, self._info(state), preconditions, confirm=confirm)
        self._answered(machine.Renewed(asked_at, answer))
        if answer.mail:
            with contextlib.suppress(RedisUnavailable):  # it may not be allowed; the heartbeat itself has succeeded
                for message in self._lease.collect(self._candidate_id):
                    self._received(message)

    def _answered(self, event: machine.Campaigned | machine.Renewed) -> None:
        self._apply(event)
        self._candidates = event.answer.candidates
        self._advised = self._advised and not self._advice.outage
        self._advice.answered(event.answer)

    def _info(self, state: machine.State) -> LeaderInfo:
        """Return what is published of this process. While it leads, that is always the same object."""
        if not state.term:
            since = utc_now()
            self._published = LeaderInfo(
                self._config.instance_id,
                self._config.hostname,
                since,
                pid=self._pid,
                project="".join(self._config.projects[:1]),
            )
        return self._published

    def _wait(self, state: machine.State, todo: machine.Plan, asked_at: float) -> float:
        self._begin_again()
        if not self._advised and not state.ended and not state.failures:
            self._advised = True
            with contextlib.suppress(RedisUnavailable):  # it may not be allowed
                self._advice.server(self._lease.server())
        if self._compared is not None and not state.failures:
            with contextlib.suppress(RedisUnavailable):
                self._compare_projects(state)
        if todo.listen and asked_at >= self._retry_blpop_at:
            self._listen(state, todo.until)
            return 0.0
        with contextlib.suppress(RedisUnavailable):
            if state.ended and state.ended.owes_release:
                self._lease.channel.open()  # while the loss callbacks run
            elif state.term and self._lease.channel.connected:
                self._lease.prepare_release(
                    self._candidate_id,
                    state.term.token,
                    "resigned",
                    Preconditions(state.highest_token, acknowledged_version=state.watch.version),
                )
        return todo.until - clock.now()

    def _compare_projects(self, state: machine.State) -> None:
        """Warn this process and the leader, once, if they are of two projects. Raise ``RedisUnavailable``.

        It takes one round trip for each new leader, until one has published its project. The follower asks, because of
        two projects the one that comes second follows the other. An older release of this package publishes no project.
        """
        if not self._config.projects or state.leader in ("", self._candidate_id, self._compared):
            return
        self._compared, leader = state.leader, self._lease.status().leader
        if leader and leader.project:
            self._compared = None
        if other := other_project(leader, self._config.projects):
            self._advice.project(other)
            self._lease.post(state.leader, {"project": self._config.projects[0]})

    def _listen(self, state: machine.State, until: float) -> None:
        try:
            if self._prepared_at != state.highest_token:
                self._prepared_at = state.highest_token
                self._lease.prepare(
                    self._candidate_id, machine.preconditions(state, clock.now(), self._timing), self._info(state)
                )
            wake = clock.now() >= state.not_before and self._queues()
            # A poll that is not urgent may be late by the server's timer, which saves this thread one wake-up.
            exact = not state.poll_suffices or over_before(state, until)
            message = self._lease.wait(self._candidate_id, wake=wake, until=until, exact=exact)
            self._blpop_refused = False
        except RedisUnavailable as error:
            # The next request shows whether Redis is unreachable. If it only refuses the wait, go on without one.
            self._retry_blpop_at = clock.now() + self._timing.retry
            if not self._blpop_refused:
                self._blpop_refused = True
                label = self._advice.label
                log(logging.INFO, "%s: BLPOP was refused or failed (%s); a hand-over may take longer", label, error)
            return
        if message is not None:
            self._received(message)

    def _queues(self) -> bool:
        """Return whether to wait for a wake-up, too, until the next poll. Drawn at random."""
        return random.random() * self._candidates < QUEUE

    def _received(self, message: dict[str, Any]) -> None:
        if "wake" in message:
            state, at = self._state(), clock.now()
            if machine.campaigns_when_woken(state, at):  # if it stops meanwhile, it wakes another when it leaves
                self._campaign(state, at, poll=False)  # at once, and not in the next turn
        elif isinstance(duplicate := message.get("duplicate"), str):
            self._advice.duplicate(duplicate)
            if not message.get("answer"):
                self._lease.post(duplicate, {"duplicate": self._candidate_id, "answer": True})
        elif self._config.projects and isinstance(other := message.get("project"), str):
            self._advice.project(other)
