"""``LeaderElection``: one process in one election, as the application sees it.

NOT guaranteed here:

- That nobody else works on as if it led. ``is_leader()`` is true only while this process holds the lease; a process
  that is paused between this check and a write can still write late. Hand ``fencing_token`` to the other side where
  that matters, and let it refuse a token lower than one it has seen.
- That a term lasts. Redis, the network or a starved process can end any term at any time.
- That there is always a leader. While Redis is away nobody can be elected.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from time import clock_gettime
from typing import Any, TypeVar

import redis

from . import clock
from .candidacy import NO_GRANT, Candidacy
from .channel import connector
from .clock import BOOT_CLOCK
from .config import Config
from .delivery import Listeners
from .exceptions import LeaderError, RedisUnavailable
from .lease import Lease
from .machine import Resign, Stop
from .records import ElectionStatus, Event, LeaderInfo

EXIT_TIMEOUT = 2.0
"""Seconds that the end of the interpreter waits for a graceful hand-over: less than any server's kill timeout."""

T = TypeVar("T")
Callback = TypeVar("Callback", bound=Callable[[], Any])


class LeaderElection:
    """This process in one election. Thread-safe; one object per process and election.

    ``client`` tells where Redis is and how to log in; its connections are not used. ``name`` is for logs and errors.
    ``after_callback`` is called behind each callback, in its thread. Raises ``ConfigError`` for a bad ``config``.
    """

    def __init__(
        self,
        client: redis.Redis,
        config: Config | None = None,
        *,
        name: str = "default",
        after_callback: Callable[[], Any] = lambda: None,
    ) -> None:
        self.name, self.label = name, f"LEADER_ELECTIONS[{name!r}]"
        self._given = config or Config()
        self._connect = connector(client.connection_pool)
        self._listeners = Listeners(after_callback)
        self._forget()
        _elections.add(self)

    def _forget(self) -> None:
        self.config = self._given.validate()
        self._candidacy: Candidacy | None = None
        self._grants: Any = self
        self._lock = threading.Lock()

    grant = NO_GRANT  # read while there is no candidacy

    def is_leader(self) -> bool:
        """Whether this process leads now. Local: no network, no lock, never raises. Any thread, any signal handler."""
        grant = self._grants.grant
        if grant.latch[0] and clock_gettime(BOOT_CLOCK) < grant.deadline:
            return True
        grant.latch[0] = 0
        return False

    @property
    def fencing_token(self) -> int | None:
        """The number of this process's term while it leads, else None. Local. Later terms have higher numbers."""
        grant = self._grants.grant
        if grant.latch[0] and clock_gettime(BOOT_CLOCK) < grant.deadline:
            token: int = grant.token
            return token
        grant.latch[0] = 0
        return None

    @property
    def lease_left(self) -> float:
        """Seconds until ``is_leader()`` turns false unless the lease is renewed; 0 when not leading. Local."""
        grant = self._grants.grant
        left: float = grant.deadline - clock_gettime(BOOT_CLOCK)
        if grant.latch[0] and left > 0:
            return left
        grant.latch[0] = 0
        return 0.0

    @property
    def instance_id(self) -> str:
        """The name of this process in the election. Local."""
        return self.config.instance_id

    def get_instance_id(self) -> str:
        """The same as ``instance_id``. Local."""
        return self.instance_id

    @property
    def running(self) -> bool:
        """Whether this process takes part. Local."""
        candidacy = self._candidacy
        return candidacy is not None and not candidacy.ended and candidacy.pid == os.getpid()

    @property
    def outage(self) -> str:
        """Why Redis could not be asked when this candidate last tried; empty when it answered. Local."""
        return self._candidacy.outage if self._candidacy else ""

    @property
    def last_tick(self) -> float | None:
        """Seconds since the election thread last came round, for health checks; None when not taking part. Local.

        A healthy one comes round at every heartbeat, or every ``retry_interval`` when another process leads.
        """
        return clock.now() - self._candidacy.ticked_at if self._candidacy and self.running else None

    def status(self) -> ElectionStatus:
        """The election as Redis has it. One round trip on a connection of its own; raises ``RedisUnavailable``."""
        return self._ask(Lease.status)

    def get_leader_info(self) -> LeaderInfo | None:
        """Who leads, None when nobody does. One round trip; raises ``RedisUnavailable``."""
        return self.status().leader

    def get_leader_id(self) -> str:
        """The leader's instance id, ``""`` when nobody leads. One round trip; raises ``RedisUnavailable``."""
        info = self.get_leader_info()
        return info.instance_id if info else ""

    def history(self, limit: int = 20) -> list[Event]:
        """The newest changes of leadership, newest first. One round trip; raises ``RedisUnavailable``."""
        return self._ask(lambda lease: lease.history(limit))

    def _ask(self, question: Callable[[Lease], T]) -> T:
        lease = Lease(self._connect, self.config)
        try:
            return question(lease)
        except RedisUnavailable as error:
            raise RedisUnavailable(f"{self.label}: {error}") from error
        finally:
            lease.channel.drop()

    def on_become_leader(self, callback: Callback) -> Callback:
        """Calls ``callback`` at the beginning of each later term, in a thread of its own; it may run for long.

        When it raises, the term ends: a leader that failed to start its work must not keep the lease.
        Usable as a decorator.
        """
        self._listeners.on_gain.append(lambda token: callback())
        return callback

    def on_lose_leadership(self, callback: Callback) -> Callback:
        """Calls ``callback`` at the end of each term that was announced, after ``is_leader()`` turned false.

        The callbacks run one after the other. Until they have returned, a leader that ended by its own will keeps
        the lease (while it lasts), and this process does not campaign again. Usable as a decorator.
        """
        self._listeners.on_loss.append(lambda token, reason: callback())
        return callback

    def listen(
        self,
        gained: Callable[[int], Any],
        lost: Callable[[int, str], Any],
        changed: Callable[[str, str], Any],
    ) -> None:
        """Like the two above with the token, the reason, and (previous, current) leader: for integrations."""
        self._listeners.on_gain.append(gained)
        self._listeners.on_loss.append(lost)
        self._listeners.on_change.append(changed)

    def start(self) -> None:
        """Takes part from now on, in a daemon thread. Local. Does nothing when it already does, or at exit."""
        if candidacy := self._begin():
            threading.Thread(target=candidacy.run, name=f"{self.label} election", daemon=True).start()

    def run(self) -> None:
        """Takes part in the calling thread, until ``stop()``. Raises ``LeaderError`` when it already does."""
        candidacy = self._begin()
        if not candidacy:
            raise LeaderError(f"{self.label}: takes part already; call run() or start() once")
        try:
            candidacy.run()
        except BaseException:  # Ctrl-C, say: end as stop() does
            candidacy.feed(Stop())
            candidacy.run()
            raise

    def _begin(self) -> Candidacy | None:
        if self._candidacy and self._candidacy.pid != os.getpid():
            self._after_fork()  # a fork in C, of which nobody has told us
        with self._lock:
            if self.running or _exiting:
                return None
            last, new = self._candidacy, Candidacy(self._connect, self.config, self.label, self._listeners)
            if last:
                last.bequeath(new)
            self._candidacy = self._grants = new
            return new

    def stop(self, *, hold: float = 0.0, timeout: float | None = None) -> None:
        """Takes part no longer: ends the term, runs the loss callbacks, releases the lease and wakes the next.

        Returns when that is done: after two round trips, or at the latest after ``timeout`` seconds (default: the
        lease and two operations). From a loss callback it returns at once and is done later. ``hold``: seconds for
        which the lease is kept although nobody leads. Idempotent, any thread; afterwards ``start()`` works again.
        """
        candidacy = self._candidacy
        if candidacy is None or not self.running:
            return
        candidacy.hold = max(candidacy.hold, hold)
        candidacy.feed(Stop())
        if candidacy.delivers_here():
            return
        timing = self.config.timing
        with candidacy.changed:
            candidacy.changed.wait_for(
                lambda: candidacy.ended, timing.ttl + 2 * timing.operation if timeout is None else timeout
            )

    def resign(self) -> bool:
        """The leader gives up and lets another lead; it campaigns again after a while. Local. False if not leading."""
        token = self.fencing_token
        if self._candidacy is None or token is None:
            return False
        self._candidacy.feed(Resign(token, "resigned"))
        return True

    def wait_for_leadership(self, timeout: float | None = 0.0) -> bool:
        """Blocks until this process leads, or ``timeout`` seconds are over (None: never) and one campaign has ended.

        Gives whether it leads. False at once when ``start()`` was not called. Over the timeout it goes by no more than
        four operations: a connect, a log-in, the choice of the database, the campaign.
        """
        candidacy, until = self._candidacy, clock.now() + (float("inf") if timeout is None else timeout)
        if candidacy is None:
            return False
        first_attempt = until + 4 * self.config.timing.operation
        with candidacy.changed:
            while self.running and not self.is_leader():
                left = (until if candidacy.attempts else first_attempt) - clock.now()
                if left <= 0:
                    break
                candidacy.changed.wait(min(left, 3600.0))
        return self.is_leader()

    def _after_fork(self) -> None:
        if self._candidacy:
            self._candidacy.abandon()
        self._forget()


_elections: weakref.WeakSet[LeaderElection] = weakref.WeakSet()
_exiting = False


def _forget_all() -> None:
    for election in list(_elections):
        election._after_fork()


def _stop_all() -> None:
    global _exiting
    _exiting = True
    running = [election for election in list(_elections) if election.running]
    until = clock.now() + EXIT_TIMEOUT
    for timeout in (0.0, EXIT_TIMEOUT):  # tell all first, then wait for each
        for election in running:
            election.stop(timeout=min(timeout, max(0.0, until - clock.now())))


os.register_at_fork(after_in_child=_forget_all)
atexit.register(_stop_all)
