"""The jobs that the application has declared, by election, and the search for them.

NOT guaranteed here: that a job runs. Where an election leads, ``runtime.jobs`` asks for its jobs.
"""

from __future__ import annotations

import logging
import threading
from importlib import import_module
from typing import NamedTuple

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from .runtime.runs import JobSpec
from .system.log import log

MODULE = "leader_jobs"
"""The module of an app that is searched for jobs."""
BROKEN = "LEADER_ELECTIONS: the jobs of the app %r do not run, because its module %s cannot be imported"
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


class Jobs:
    """The jobs of this process, by election. Thread-safe, one object per process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Under the lock:
        self._known: dict[tuple[str, str], Registered] = {}
        self.duplicates: list[Registered] = []
        """Jobs that do not run, because another one of their election has the name."""
        self.broken: dict[str, Exception] = {}
        """What the import of the module of an app raised, by the name of the app."""
        self._discovered = False
        # Replaced as a whole.
        self._specs: dict[str, tuple[JobSpec, ...]] = {}

    def add(self, job: Registered) -> None:
        """Register a job. What is registered again, as when a module is loaded anew, replaces itself. Local."""
        key = job.election, job.spec.job.name
        with self._lock:
            known = self._known.get(key)
            if known and known.where != job.where:
                self.duplicates.append(job)
                log(logging.ERROR, TWICE, *key, job.where)
                return
            self._known[key] = job
            run = [job for job in self._known.values() if not job.called]
            self._specs = {
                alias: tuple(one.spec for one in run if one.election == alias)
                for alias in {one.election for one in run}
            }

    def of(self, alias: str) -> tuple[JobSpec, ...]:
        """Return the jobs of an election. The first call imports the modules of all apps; then local. Never raises."""
        if not self._discovered:
            self.discover()
        return self._specs.get(alias, ())

    def all(self) -> list[Registered]:
        """Return all jobs, by election and name. Cost: as of ``of``."""
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
        """Import the module ``leader_jobs`` of each app, once. Log what one raises, and import the others."""
        with self._lock:
            if self._discovered or not apps.ready:
                return
            self._discovered = True
            for app in apps.get_app_configs():
                if not app.module or not module_has_submodule(app.module, MODULE):
                    continue
                try:
                    import_module(f"{app.name}.{MODULE}")
                except Exception as error:  # the application that carries us goes on
                    self.broken[app.label] = error
                    log(logging.ERROR, BROKEN, app.label, f"{app.name}.{MODULE}", exc_info=error)

    def unlock(self) -> None:
        """For this package: replace the lock in a forked child, where no thread is left to release it."""
        self._lock = threading.RLock()


jobs = Jobs()
"""The jobs of this process."""
