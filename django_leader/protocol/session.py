"""The driver of a candidate without its I/O: which request leaves next, and what a reply means for the machine.

NOT guaranteed here: that a request was not executed because its reply did not come. The session tells the machine that
the request failed, and time does the rest.

The driver of a session does four things, in one thread at a time. It asks ``next`` what to do. It sends the request
and passes what comes back to ``reply``, or calls ``failed``. It feeds events that come from elsewhere to the shared
state (``Shared``), from any thread. When it waits, any event ends the wait. The election thread (``runtime.worker``),
the simulation and the benchmark's light candidates drive this very session. So what they prove or measure is what runs.

- At most one request is under way. Its instant counts from ``next``, which is before it leaves.
- A healthy leader sends one lean renewal per heartbeat, and a healthy follower one poll per retry interval. Neither
  checks which server answers; a campaign and a reclaim do. So a lean request leaves only on the connection on which one
  of these was answered last. Otherwise, and when a lean request could not tell, the full request is sent.
- A grant or a renewal that replicas must confirm is told to the machine only when ``WAIT``, which follows on the same
  connection, says that enough of them have it.
- A release that the server found too late is sent once more if the lease still lasts. Either the request was slow, or
  the server's clock was set; the answer says what that clock shows.
- A poll can have a wait at Redis behind it, in one piece, unless something may be due before that wait would end. In a
  large fleet a follower polls rarely (``pace``), and the lease that it has seen may be over before the wait would end,
  so the wait is sent only when the poll is answered.
- What is only good to know (``errands``) is asked when nothing is due, while no term is ending.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from . import machine, pace
from .config import ValidConfig
from .errands import NAMES, Errands, Informed
from .hold import DELAY, Clocks, held_since
from .records import Answer, Preconditions
from .requests import SERVER_TIMER, Requests
from .template import Request

WAITING_FOLLOWERS = 32
"""About how many followers wait for a wake-up at a time. After each poll it is drawn anew which ones. Some servers need
a time that grows with the square of their number to wake one of them: 5 ms for 1,000, 0.1 s for 3,000."""


class Send(NamedTuple):
    """Send ``request`` now, once."""

    request: Request
    wait: Request | None = None
    """A wait at Redis that is sent behind the request, in one piece."""
    until: float = math.inf
    """When that wait ends."""
    alone: bool = False
    """Whether to end the waits at Redis first, so that no wake-up goes there."""


class Wait(NamedTuple):
    """Do nothing until the instant ``until``, or until there is an event."""

    until: float
    at_redis: Request | None = None
    """If it is set, wait at Redis, by this request, where other processes can wake this one."""
    exact: bool = True
    """Whether the wait must not end late by the server's timer."""
    connect: bool = False
    """Whether the connection will be needed in a hurry."""


class Leave(NamedTuple):
    """Nothing is left to do."""


class Shared(Protocol):
    """What the session shares with those who know of other events."""

    @property
    def state(self) -> machine.State:
        """What the machine knows."""

    def apply(self, event: machine.AnyEvent) -> None:
        """Feed an event to the machine."""


class Observer(Informed, Protocol):
    """Who is told what the candidate has seen. For logs and metrics; must not raise."""

    def answered(self, answer: Answer) -> None:
        """Note the answer to a campaign, a poll or a renewal."""

    def failed(self, error: BaseException | str) -> None:
        """Note why Redis cannot be used. Called before the machine is told."""


class Session:
    """One candidate at Redis.

    ``random`` draws from [0, 1). ``wall`` and ``clocks`` say what the clocks of this host show now. ``follow`` is
    called with each answer to a campaign or a poll, and with an instant before the request left. It watches the process
    of the leader that the answer names; if that has just been found dead, it returns holder and token of the answer.
    """

    def __init__(
        self,
        shared: Shared,
        candidate_id: str,
        config: ValidConfig,
        pid: int,
        observer: Observer,
        *,
        random: Callable[[], float],
        wall: Callable[[], datetime],
        clocks: Callable[[], Clocks],
        follow: Callable[[Answer, float], tuple[str, int] | None],
    ) -> None:
        self._shared, self._observer, self._timing = shared, observer, config.timing
        self._random, self._wall, self._clocks, self._follow = random, wall, clocks, follow
        self.requests = Requests(config, candidate_id, pid)
        self.errands = Errands(candidate_id, self.requests, config.projects, observer)
        self.process = ""
        """What the next grant or heartbeat publishes of this process; the driver sets it. If it is empty, the death of
        this process does not let another candidate take over."""
        self._published = ""
        self._checked: object = None
        """The connection on which a campaign or a reclaim was answered last."""
        self._since = wall()
        """When the term began, as it is published; before that, when the last campaign left."""
        self._asked_at = 0.0
        self._unconfirmed: machine.Campaigned | machine.Renewed | None = None
        """What is told to the machine as soon as enough replicas have it."""
        self._release_by = 0.0
        """The server's time before which a release that came too late must be executed when it is sent again."""
        self._releasing = False
        """Whether the last request was a release."""
        self._polled = self._told_to_leave = False

    def next(self, now: float, connection: object) -> Send | Wait | Leave:
        """Return what to do now. Local.

        ``connection``: on which a request would leave, if it is open; None if it would leave on a new one. Each
        connection is equal only to itself.
        """
        state = self._shared.state
        todo = machine.plan(state, now)
        if todo.act == "wait":
            self._unconfirmed, self._releasing = None, False  # what these were about is over
            return self._wait(state, todo, now, connected=connection is not None)
        if self._unconfirmed and todo.act != "release":  # a release needs no confirmation of the term that has ended
            self._releasing = False
            return Send(self.requests.await_replicas())
        self._asked_at, self._unconfirmed, self._releasing = now, None, todo.act == "release"
        preconditions = machine.preconditions(state, now, self._timing)
        checked = connection is not None and connection == self._checked
        if todo.act == "poll" and checked:
            return self._poll(state, now)
        if todo.act in ("campaign", "poll"):
            self._since = self._wall()
            return Send(self.requests.campaign(preconditions, self.process, self._since))
        if todo.act == "release" and state.ended:
            return Send(self._release(state, state.ended, preconditions))
        if term := state.term or state.pending:
            return Send(self._renewal(state, term.token, preconditions, checked=checked))
        # It leaves. A server that does not answer, or was never asked, need not be told.
        if self._told_to_leave or state.failures or not state.watch.observation:
            return Leave()
        self._told_to_leave = True
        return Send(self.requests.release(0, "", preconditions, leave=True), alone=True)

    def reply(self, request: Request, reply: Any, now: float, connection: object) -> None:
        """Tell the machine what ``reply``, which came at ``now`` on ``connection`` (see ``next``), means.

        Raise ``GarbledReply`` if it is no reply to ``request``; call ``failed`` then. Local.
        """
        meaning, name = request.read(reply), request.template.name
        match name:
            case "campaign" | "reclaim":
                # A server that is new may not know the poll's script: the next poll leaves without a wait behind it.
                self._polled = self._polled and connection == self._checked
                self._published, self._checked = self.process, connection
                self._answered(name, meaning)
            case "poll" | "renew":
                self._polled = self._polled or name == "poll"
                self._answered(name, meaning)
            case "WAIT":
                self._confirmed(meaning)
            case "release":
                self._released(meaning, now)
            case "BLPOP":
                if self._shared.state.blpop_refused:
                    self._shared.apply(machine.WaitEnded(refused=False))
                if meaning and "wake" in meaning:
                    self._shared.apply(machine.Woken())
                elif meaning:
                    self.errands.received(meaning)
            case _:
                self.errands.reply(name, meaning, self._shared.state.leader)

    def failed(
        self,
        request: Request | None,
        error: BaseException | str = "",
        *,
        closed: bool = False,
        too_long: bool = False,
    ) -> None:
        """Tell the machine that ``request`` failed, or (None) that something else did. Local.

        ``closed``: the connection was closed at the other end. ``too_long``: a message in the inbox was. If this says
        that Redis cannot be used, the observer is told of ``error``.
        """
        name = request.template.name if request else ""
        if request and request.template.once and closed:  # the full request, on a new connection, can tell
            self._shared.apply(machine.Unsure())
            return
        if name == "BLPOP":
            # The next request shows whether Redis is unreachable.
            self._shared.apply(machine.WaitEnded(refused=True))
            if too_long:  # take it out, and those of its kind
                self.errands.collect()
            return
        if name in NAMES:
            self.errands.failed()
            return
        if name == "release" and self._told_to_leave:
            return
        if error:
            self._observer.failed(error)
        if self._releasing:  # it is not tried again: the lease runs out
            self._shared.apply(machine.Released())
        self._unconfirmed, self._release_by, self._releasing = None, 0.0, False
        self._shared.apply(machine.Failed(self._random()))

    def _poll(self, state: machine.State, now: float) -> Send:
        until = now + self._timing.retry
        crowded = pace.usual(state.candidates, self._timing) > self._timing.retry
        waits = not (crowded or state.blpop_refused or _over_before(state, until)) and now >= state.not_before
        # The first time the server may not know the script. The poll must then be sent again, while the wait behind it
        # would still be queued at Redis, and take the wake-up that is meant for the next wait.
        if waits and self._polled:
            return Send(self.requests.poll(), self.requests.wait(wake=self._queues(state)), until)
        return Send(self.requests.poll())

    def _renewal(self, state: machine.State, token: int, preconditions: Preconditions, *, checked: bool) -> Request:
        if state.term and checked and not state.unsure and self._published == self.process:
            return self.requests.renew(token, self._since, self._wall())
        confirm = state.term is None
        return self.requests.reclaim(token, self._since, self._wall(), preconditions, self.process, confirm=confirm)

    def _release(self, state: machine.State, ended: machine.Ended, preconditions: Preconditions) -> Request:
        if self._release_by:
            preconditions = preconditions._replace(not_after=self._release_by)
        clocks = self._clocks().to_text() if state.delay else ""
        return self.requests.release(ended.term.token, ended.reason, preconditions, delay=state.delay, clocks=clocks)

    def _wait(self, state: machine.State, todo: machine.Plan, now: float, *, connected: bool) -> Send | Wait:
        nothing_due = not (state.ended or state.failures or state.stopping)
        if nothing_due and (errand := self.errands.next(state.leader)):
            return Send(errand)
        if todo.listen:
            # Only to have it packed, so that it can leave at once when this candidate is woken: ``requests`` keeps it.
            preconditions = machine.preconditions(state, now, self._timing)
            self.requests.campaign(preconditions, self.process, self._since)
            wake = now >= state.not_before and self._queues(state)
            # A poll that is not urgent may be late by the server's timer, which saves the thread one wake-up.
            exact = not state.poll_suffices or _over_before(state, todo.until)
            return Wait(todo.until, self.requests.wait(wake=wake), exact=exact)
        if state.term and connected:  # to have it packed, too
            preconditions = machine.preconditions(state, now, self._timing)
            self.requests.release(state.term.token, "resigned", preconditions)
        return Wait(todo.until, connect=bool(state.ended and state.ended.owes_release))

    def _answered(self, name: str, answer: Answer | None) -> None:
        if answer is None or (name == "poll" and answer.token < self._shared.state.highest_token):
            self._shared.apply(machine.Unsure())
            return
        if answer.version.startswith(DELAY):
            answer = answer._replace(held_since=held_since(answer, self._clocks()))
        event: machine.Campaigned | machine.Renewed
        if name in ("campaign", "poll"):
            event = machine.Campaigned(self._asked_at, answer, self._random(), self._follow(answer, self._asked_at))
        else:
            event = machine.Renewed(self._asked_at, answer)
        if self._needs_replicas(answer):
            self._unconfirmed = event
        else:
            self._tell(event)

    def _needs_replicas(self, answer: Answer) -> bool:
        """Return whether replicas must have what was answered before it counts."""
        return self._timing.replicas > 0 and answer.verdict in ("granted", "renewed")

    def _confirmed(self, replicas: int) -> None:
        event, self._unconfirmed = self._unconfirmed, None
        if event and replicas >= self._timing.replicas:
            self._tell(event)
            return
        wanted = self._timing.replicas
        self.failed(None, f"{replicas} of {wanted} replicas (MIN_REPLICAS) have confirmed the lease")

    def _tell(self, event: machine.Campaigned | machine.Renewed) -> None:
        outage = self._shared.state.failures > 0
        self._shared.apply(event)
        self._observer.answered(event.answer)
        self.errands.answered(event.answer, after_outage=outage)

    def _released(self, meaning: bool | Answer, now: float) -> None:
        ended = self._shared.state.ended
        left = ended.term.deadline - now if ended else 0.0
        if isinstance(meaning, Answer) and ended and not (self._told_to_leave or self._release_by) and left > 0:
            # The request was executed before now, so at the deadline the server's clock shows this or more.
            self._release_by = meaning.at + left
            return
        self._release_by = 0.0
        if not self._told_to_leave:
            self._shared.apply(machine.Released())

    def _queues(self, state: machine.State) -> bool:
        """Return whether to wait for a wake-up, too, until the next poll. Drawn at random."""
        return self._random() * state.candidates < WAITING_FOLLOWERS


def _over_before(state: machine.State, until: float) -> bool:
    """Return whether the lease may be over before a wait until ``until`` returns, late by the server's timer."""
    return until + 2 * SERVER_TIMER >= state.watch.expires_at
