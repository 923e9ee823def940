"""The jobs that the application has declared, by election, and the search for them.

NOT guaranteed here: that a job runs. Where an election leads, ``runtime.jobs`` asks for its jobs.
"""

from __future__ import annotations

import inspect
import logging
import threading
from importlib import import_module
from typing import Any, NamedTuple

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from .runtime.runs import JobSpec
from .system.forks import register
from .system.log import log

MODULE = "leader_jobs"
"""The module of an app that is searched for jobs."""
LONGEST_WAIT = 60.0
"""Seconds for which a thread waits for Django's apps, or for another thread that imports modules."""
BROKEN = "LEADER_ELECTIONS: the jobs of the app %r do not run, because its module %s cannot be imported"
LATE = (
    "LEADER_ELECTIONS[%r]: the job %r of %s was registered late: a term that goes on is without it, and so is each "
    "process that has not imported its module. Import that module in the module leader_jobs of an app"
)
TWICE = "LEADER_ELECTIONS[%r]: two jobs have the name %r, so the one of %s does not run; give it another name"


class Registered(NamedTuple):
    """A job as it was declared."""

    election: str
    spec: JobSpec
    where: str
    """Module and name of what it calls."""
    target: object
    """What was decorated."""
    called: bool = False
    """Whether the application calls it itself (``once_per_slot``), so that the leader does not."""
    leaderless: bool = False
    """Whether it needs no leader. ``election`` is then the one whose Redis it uses."""


class Jobs:
    """The jobs of this process, by election. Thread-safe, one object per process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Under the lock:
        self._known: dict[tuple[str, str], Registered] = {}
        self.duplicates: list[Registered] = []
        """Jobs that do not run, because another one of their election has the name."""
        self.broken: dict[str, BaseException] = {}
        """What the import of the module of an app raised, by the name of the app."""
        self._discoverer: int | None = None
        """The thread that imports the modules, or has."""
        self._discovered = threading.Event()
        # Replaced as a whole.
        self._specs: dict[str, tuple[JobSpec, ...]] = {}

    def add(self, job: Registered) -> None:
        """Register a job. A function that is made again, as when its module is loaded anew, replaces itself. Local.

        Log it if the job comes after the search. A term does not take it up, because other processes would not: the job
        would run in some terms, and nothing would say why it does not in the others.

        Raise ``ValueError`` for a function that has a job of this name already.
        """
        key = job.election, job.spec.job.name
        with self._lock:
            known = self._known.get(key)
            if known and _code(known.target) is _code(job.target):
                raise ValueError(
                    f"LEADER_ELECTIONS[{key[0]!r}]: {job.where} has a job of the name {key[1]!r} already; give each of "
                    "its jobs a name of its own"
                )
            if known and (known.where, _line(known.target)) != (job.where, _line(job.target)):
                self.duplicates.append(job)
                log(logging.ERROR, TWICE, *key, job.where)
                return
            self._known[key] = job
            run = [job for job in self._known.values() if not job.called]
            self._specs = {
                alias: tuple(one.spec for one in run if one.election == alias)
                for alias in {one.election for one in run}
            }
        if known is None and not job.called and self._discovered.is_set():
            log(logging.WARNING, LATE, *key, job.where)

    def of(self, alias: str) -> tuple[JobSpec, ...]:
        """Return the jobs of an election that are registered so far. Local."""
        return self._specs.get(alias, ())

    def all(self) -> list[Registered]:
        """Return all jobs, by election and name. The first call imports the modules of all apps."""
        self.discover()
        with self._lock:
            return [self._known[key] for key in sorted(self._known)]

    def find(self, alias: str, wanted: object) -> JobSpec:
        """Return the job of an election by its name, or by the function that it calls. Raise ``LookupError``."""
        for job in self.all():
            if job.election == alias and wanted in (job.spec.job.name, job.target):
                return job.spec
        known = ", ".join(repr(job.spec.job.name) for job in self.all() if job.election == alias)
        raise LookupError(f"LEADER_ELECTIONS[{alias!r}] has no job {wanted!r} (it has: {known or 'none'})")

    def discover(self) -> None:
        """Import the module ``leader_jobs`` of each app, once. Log what one raises, and import the others.

        Another thread waits meanwhile, for a minute at most. No lock is held, because a thread of the application may
        register a job while it holds the lock of a module that is to be imported here. While Django's apps are being
        loaded, do nothing in the main thread, and wait for them in another one.
        """
        if not apps.ready and threading.current_thread() is not threading.main_thread():
            apps.ready_event.wait(LONGEST_WAIT)
        if not apps.ready:
            return
        here = threading.get_ident()
        with self._lock:
            first = self._discoverer is None
            if first:
                self._discoverer = here
        if first:
            try:
                self._import_all()
            finally:
                self._discovered.set()
        elif self._discoverer != here:
            self._discovered.wait(LONGEST_WAIT)

    def _import_all(self) -> None:
        for app in apps.get_app_configs():
            if not app.module or not module_has_submodule(app.module, MODULE):
                continue
            try:
                import_module(f"{app.name}.{MODULE}")
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit, too: the application that carries us goes on
                self.broken[app.label] = error
                log(logging.ERROR, BROKEN, app.label, f"{app.name}.{MODULE}", exc_info=error)

    def after_fork(self) -> None:
        """For this package: replace the lock in a forked child, where no thread is left to release it."""
        self._lock = threading.RLock()
        if self._discoverer is not None:
            self._discovered.set()  # no thread is left that imports


def _code(target: Any) -> Any:
    function = inspect.unwrap(getattr(target, "func", target))
    return getattr(function, "__code__", function)


def _line(target: Any) -> int:
    return getattr(_code(target), "co_firstlineno", 0)


jobs = Jobs()
"""The jobs of this process."""
register(after_in_child=jobs.after_fork)
