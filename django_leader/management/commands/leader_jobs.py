"""``manage.py leader_jobs``: what the leaders run, when, and how the last runs have ended; and to run a job now."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from itertools import groupby
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.formats import number_format
from django.utils.timezone import localtime
from django.utils.translation import override, pgettext_lazy

from django_leader.exceptions import RedisUnavailable
from django_leader.handler import elections
from django_leader.management import run_now
from django_leader.management.output import put, put_table
from django_leader.protocol.job_records import JobRecord
from django_leader.protocol.jobs import Job, next_slot
from django_leader.registry import Registered, jobs
from django_leader.report import translated
from django_leader.runtime.orders import LONGEST_TIMEOUT
from django_leader.runtime.runs import instant
from django_leader.texts import Text

ALL_WELL, TROUBLE, UNKNOWN = 0, 1, 2
BAD = ("failed", "failed-to-start", "in-doubt", "unreported", "missed", "hung")
"""What became of the last run of a job, or of its last slot, where the exit status is 1."""
NO_JOBS = Text("No jobs are registered. They are searched in the module leader_jobs of each app in INSTALLED_APPS.")
TITLES = {
    "job": pgettext_lazy("leader election", "JOB"),
    "election": pgettext_lazy("leader election", "ELECTION"),
    "schedule": pgettext_lazy("leader election", "SCHEDULE"),
    "next": pgettext_lazy("leader election", "NEXT"),
    "last": pgettext_lazy("leader election", "LAST SLOT"),
    "outcome": pgettext_lazy("leader election", "OUTCOME"),
    "took": pgettext_lazy("leader election", "TOOK"),
    "by": pgettext_lazy("leader election", "BY"),
}


class Command(BaseCommand):
    """The command, which asks Redis once for each election; with ``--run`` until the run has ended."""

    help = (
        "Show the jobs of all elections, or of those named: when each is due next, and what became of its last slot. "
        "Exit status: 0 if all is well, 1 if a last run has failed, hangs or is in doubt, or a last slot was missed or "
        "is overdue, 2 if that cannot be found out (Redis is unreachable, the settings cannot be used, an alias is "
        "unknown, LOCAL is True, the module leader_jobs of an app cannot be imported) or the output cannot be written. "
        "With --run: 0 if the job has run, 1 if it has failed or was not run, 2 if that cannot be found out or there "
        "is no such job to run."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the arguments."""
        parser.add_argument("election", nargs="*", help="alias in LEADER_ELECTIONS; all elections if left out")
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
        parser.add_argument("--run", metavar="NAME", help="have the leader run this job now, and wait for its end")
        parser.add_argument(
            "--timeout",
            type=_seconds,
            default=60.0,
            metavar="SECONDS",
            help="with --run: how long to wait for the end of the run; 60 if left out",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the jobs, and end with the exit status. Users get them in the active language, programs in English."""
        with override(None) if options["json"] else nullcontext():
            status = self._answer(options) if options["run"] is None else self._run(options)
        if status != ALL_WELL:
            raise SystemExit(status)

    def _run(self, options: dict[str, Any]) -> int:
        """Have the leader run a job now. Print what has become of that, and return the exit status."""
        timeout: float = options["timeout"]
        try:
            aliases = _aliases(options)
            self._tell_broken()
            job = run_now.find(options["run"], aliases)
            carried = run_now.run(job, timeout)
        except (ImproperlyConfigured, RedisUnavailable) as error:
            raise CommandError(str(error), returncode=UNKNOWN) from error
        if options["json"]:
            text = json.dumps(run_now.as_dict(job, carried), indent=2, default=datetime.isoformat)
        else:
            text = translated(run_now.sentence(job, carried, timeout))
        with self._output():
            put(text, self.stdout)
        return run_now.STATUS.get(carried.outcome, UNKNOWN)

    def _tell_broken(self) -> int:
        """Say which apps have jobs that are not known. Return the exit status."""
        jobs.discover()
        for app, broken in sorted(jobs.broken.items()):
            text = Text("The jobs of the app %(app)s are not known: %(error)s", app=app, error=broken)
            put(translated(text), self.stderr)
        return UNKNOWN if jobs.broken else ALL_WELL

    def _answer(self, options: dict[str, Any]) -> int:
        status, rows = ALL_WELL, []
        try:
            aliases = _aliases(options)
            found = [job for job in jobs.all() if job.election in aliases]
            for alias, those in groupby(found, key=lambda job: job.election):
                try:
                    rows += _rows(alias, list(those))
                except RedisUnavailable as error:
                    put(str(error), self.stderr)
                    status = UNKNOWN
        except ImproperlyConfigured as error:
            raise CommandError(str(error), returncode=UNKNOWN) from error
        status = max(status, self._tell_broken())
        self._put(rows, as_json=options["json"])
        trouble = any(row["overdue"] or {row["outcome"], row["decision"]}.intersection(BAD) for row in rows)
        return max(status, TROUBLE if trouble else ALL_WELL)

    def _put(self, rows: list[dict[str, Any]], *, as_json: bool) -> None:
        with self._output():
            if as_json:
                put(json.dumps(rows, indent=2, default=datetime.isoformat), self.stdout)
            elif rows:
                put_table(TITLES.values(), [[_shown(cell) for cell in _cells(row)] for row in rows], self.stdout)
            else:
                put(translated(NO_JOBS), self.stdout)

    @contextmanager
    def _output(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with suppress(OSError):
                put(translated(Text("The output cannot be written: %(error)s", error=error.strerror)), self.stderr)
            raise SystemExit(UNKNOWN) from error


def _aliases(options: dict[str, Any]) -> list[str]:
    """Return the elections that are meant. Raise ``ImproperlyConfigured`` if one is not declared."""
    aliases: list[str] = options["election"] or list(elections)
    for alias in aliases:
        elections[alias]
    return aliases


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise argparse.ArgumentTypeError(f"{text!r}: give more than 0 and at most {LONGEST_TIMEOUT:.0f} seconds")
    return seconds


def _rows(alias: str, those: Sequence[Registered]) -> list[dict[str, Any]]:
    records = elections[alias].job_records([job.spec.job.name for job in those])
    return [_row(job, record, records.at) for job, record in zip(those, records.each, strict=True)]


def _row(registered: Registered, record: JobRecord | None, at: int) -> dict[str, Any]:
    job = registered.spec.job
    ran = record is not None and record.slot > 0
    due = next_slot(job.schedule, max(at, record.last if record else 0))
    return {
        "job": job.name,
        "election": None if registered.leaderless else registered.election,
        "schedule": job.schedule.text,
        "next": instant(int(due)) if math.isfinite(due) else None,  # none behind a forged record
        "overdue": record is not None and record.last < job.schedule.latest(at - math.ceil(_grace(job, at) * 1000)),
        "last": instant(record.slot) if record and ran else None,
        "outcome": ("running" if record.outcome == "-" else record.outcome) if record and ran else None,
        "took": record.took / 1000 if record and ran and record.took else None,
        "by": record.instance_id if record and ran else None,
        "token": record.token or None if record and ran else None,
        "decided": instant(record.last) if record and record.last else None,
        "decision": record.why if record and record.last else None,
    }


def _grace(job: Job, at: int) -> float:
    slot = job.schedule.latest(at)
    return job.grace_of(slot, job.schedule.latest(slot - 1))


def _cells(row: dict[str, Any]) -> list[Any]:
    """Return the cells of a row: of the last run, unless a later slot was not run."""
    if row["decision"] not in (None, "run"):
        row = row | {"last": row["decided"], "outcome": row["decision"], "took": None, "by": None}
    if row["overdue"]:
        row = row | {"next": translated(Text("overdue"))}
    return [row[name] for name in TITLES]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return localtime(value).strftime("%Y-%m-%d %H:%M:%S")
    return f"{number_format(value, 1)} s" if isinstance(value, float) else str(value)
