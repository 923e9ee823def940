"""The start of elections in each process, as ``autostart`` decides.

NOT guaranteed here: an immediate start in the workers of an unknown server that loads the application before it forks.
These workers become candidates at their first request, which is the fallback for all else.

- The modules that a start needs are imported in the thread that runs ``django.setup()``, or has the first request. A
  process that is forked while another thread imports could never import them. The election itself, and its connection,
  have threads of their own.
- A child that is forked for anything but serving starts no election.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_started

from django_leader import idle
from django_leader.conf import BEAT_ALIAS, configured, own_process, starting
from django_leader.runtime.lifecycle import lifecycle
from django_leader.system import clock
from django_leader.system.forks import in_fork_server, unless_forked
from django_leader.system.log import log, way_to
from django_leader.system.starts import Start, starts
from django_leader.system.threads import PAUSE
from django_leader.texts import Text

from . import bystander, servers
from .autostart import (
    AT_REQUEST,
    BEAT,
    IN_WORKERS,
    STARTED_BY_TESTS,
    Decision,
    Seen,
    decide,
    in_tests,
    inspect_process,
    refusal,
)
from .autostart import Start as When

STARTS: tuple[When, ...] = ("now", IN_WORKERS, AT_REQUEST)
THREAD = "django_leader start"
PATIENCE = 1.0
"""Seconds that ``django.setup()`` may wait for a thread where the system refuses one: a process that serves no request
may have no other occasion."""
RETRY, LONGEST_RETRY = 0.2, 10.0
"""Seconds until an election that failed to start is tried again: at first, and at most."""


class Starter:
    """The starts of this process. ``decisions``: for each election when it starts, and why.

    The elections of one start time are started once in each process, which ``_started`` records.
    """

    def __init__(self) -> None:
        self.decisions: dict[str, Decision] = {}
        self._seen = Seen()
        self._started: dict[When, int] = {}
        self._failing: set[str] = set()
        """The elections whose failed start was logged, and that have not started since."""

    def ready(self) -> None:
        """Decide for every election when it starts, and have those start that are to start."""
        seen = self._seen = self._decide()
        bystander.situation_of, idle.explain = self.situation_of, bystander.asked
        lifecycle.server = seen.entry_point or seen.prefork_master or seen.command in servers.RELOADED_COMMANDS
        planned = {decision.start for decision in self.decisions.values()}
        if planned - {"never"}:
            request_started.connect(self._request_started, dispatch_uid="django_leader.startup.starter")
        if IN_WORKERS in planned:
            self._before_start(IN_WORKERS)
            servers.at_worker_start(self._start_in_worker)
        if AT_REQUEST in planned and seen.loaded:  # the first request may come in another thread
            self._before_start(AT_REQUEST)
        if "now" in planned:
            self._before_start("now")
            servers.at_worker_end(self._ask_to_stop)
            if in_fork_server():
                self._start("", "now")
                return
            _start_thread(Start(self._start_when_ready, THREAD))

    def situation_of(self, alias: str) -> bystander.Situation | None:
        """Return what is known of the election ``alias`` in this process, or None. Local."""
        decision = self.decisions.get(alias)
        if decision is None or own_process(alias):
            return None
        return bystander.Situation(decision, self._seen, self._started.get(decision.start), not apps.ready)

    def _decide(self) -> Seen:
        seen, self.decisions = inspect_process(), {}
        for alias, entry in configured().items():
            if alias == BEAT_ALIAS:
                self.decisions[alias] = BEAT
                continue
            try:
                decision = self.decisions[alias] = decide(seen, *starting(alias, entry))
            except ImproperlyConfigured as error:
                log(logging.ERROR, "%s; this election does not start", error)
                continue
            if seen.unsupported:
                supported = decide(seen._replace(unsupported=""), *starting(alias, entry))
                if supported.start != "never":
                    log(logging.WARNING, "LEADER_ELECTIONS[%r]: does not start: %s", alias, decision.why)
            elif decision.why in (servers.THREADLESS, refusal(seen.variable)):
                log(logging.ERROR, "LEADER_ELECTIONS[%r]: does not start: %s", alias, decision.why)
            elif decision.why == STARTED_BY_TESTS:
                log(logging.WARNING, "LEADER_ELECTIONS[%r]: does not start: %s", alias, decision.why)
        return seen

    def _before_start(self, start: When) -> None:
        """Do here, in the main thread, what another thread, or a forked child, could not do when it starts."""

        def do(election: Any, decision: Decision) -> None:
            election.import_client()
            if start != IN_WORKERS:
                election.handle_exit()

        self._for_each(do, start)

    def _start_when_ready(self) -> None:
        # A receiver that another app connects in its own ready() must not miss the first gain.
        start = unless_forked(lambda: self._start("", "now"))
        apps.ready_event.wait()
        start()

    def _request_started(self, sender: Any = None, **kwargs: Any) -> None:
        starts.retry()
        due = [start for start in STARTS if self._started.get(start) != os.getpid()]
        if due and not _is_test_client(sender) and not in_tests():
            lifecycle.server = True
            self._start("this process has received a request", *due)

    def _start(self, why: str, *when: When) -> None:
        """Start the elections that are due. A failed one is tried again in a thread, unless a setting is bad."""
        self._started.update(dict.fromkeys(when, os.getpid()))
        started: set[str] = set()

        def start(election: Any, decision: Decision) -> None:
            if election.name not in started:
                election.start()
                started.add(election.name)
                if election.running:  # in a fork server only its children run it
                    log(logging.INFO, "%s: started because %s", election.label, why or decision.why)

        def start_the_rest() -> None:
            wait = RETRY
            while self._for_each(start, *when):
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_RETRY)

        if self._for_each(start, *when):
            starts.start(Start(unless_forked(start_the_rest), THREAD))
        servers.at_reactor_end(self._ask_to_stop)

    def _for_each(self, do: Callable[[Any, Decision], Any], *when: When) -> bool:
        """Call ``do`` for the elections that start at ``when``. Return whether one failed that is worth another try."""
        from django_leader.handler import elections

        failed = False
        for alias, decision in list(self.decisions.items()):
            if decision.start in when:
                try:
                    do(elections[alias], decision)
                    self._failing.discard(alias)
                except ImproperlyConfigured as error:  # whose text says all
                    why = str(error).removeprefix(f"LEADER_ELECTIONS[{alias!r}]: ")
                    log(logging.ERROR, "LEADER_ELECTIONS[%r]: not started. %s", alias, why)
                    # Never again, so that it is logged once.
                    self.decisions[alias] = Decision("never", Text("it failed: %(error)s", error=why))
                except Exception as error:
                    failed = True
                    if alias not in self._failing:
                        self._failing.add(alias)
                        text = "LEADER_ELECTIONS[%r]: not started yet; the start is retried: %s"
                        log(logging.ERROR, text, alias, way_to(error))  # without a text that may hold a secret
        return failed

    def _ask_to_stop(self) -> None:
        # A signal handler calls this, so it takes no lock.
        def ask(election: Any, decision: Decision) -> None:
            if election.config.handle_sigterm:
                election.ask_to_stop()

        self._for_each(ask, *STARTS)

    def _start_in_worker(self) -> None:
        try:
            if self._started.get(IN_WORKERS) != os.getpid():  # its first request may have come before
                self._start("this worker has been forked", IN_WORKERS)
        except Exception:
            text = "LEADER_ELECTIONS: the start failed; this worker may not be participating until it is restarted"
            log(logging.ERROR, text, exc_info=True)


def _start_thread(start: Start) -> None:
    """Start a thread, later if the system refuses it for more than ``PATIENCE`` seconds. Never raises for that."""
    starts.start(start)
    until = clock.now() + PATIENCE
    while starts.waits(start) and clock.now() < until:
        time.sleep(PAUSE)
        starts.retry()


def _is_test_client(sender: Any) -> bool:
    """Return whether a request is from Django's test client, or from a class derived from it, which serves no user."""
    return any(kind.__module__.startswith("django.test") for kind in getattr(sender, "__mro__", ()))


starter = Starter()


def begin() -> None:
    """Run the starter, for ``AppConfig.ready()``. Never raises."""
    try:
        starter.ready()
    except ImproperlyConfigured as error:
        log(logging.ERROR, "no election starts in this process: %s", error)
    except Exception:
        log(logging.ERROR, "LEADER_ELECTIONS: no election starts in this process", exc_info=True)
