"""``manage.py leader_jobs --run``: have the leader run a job now, and say what has become of it."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError
from django.utils.formats import number_format

from django_leader.handler import elections
from django_leader.protocol.orders import LONGEST_BY
from django_leader.protocol.records import printable
from django_leader.registry import Registered, jobs
from django_leader.report import translated
from django_leader.runtime.orders import Carried, run_now
from django_leader.runtime.runs import instant
from django_leader.texts import Text

DONE, NOT_DONE, UNKNOWN = 0, 1, 2
STATUS = {"ok": DONE} | dict.fromkeys(
    ("failed", "failed-to-start", "overlapped", "absent", "withdrawn", "nobody-leads"), NOT_DONE
)
"""The exit status by the outcome. That of any other is ``UNKNOWN``."""


def asker() -> str:
    """Return who asks: the user of the operating system, and the host. Local."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may have no name for its user
        user = "?"
    return printable(f"{user}@{socket.gethostname()}", LONGEST_BY)


def find(name: str, aliases: Sequence[str]) -> Registered:
    """Return the job of that name. Raise ``CommandError`` if it cannot be run for a request."""
    known = [job for job in jobs.all() if job.election in aliases]
    found = [job for job in known if job.spec.job.name == name]
    if not found:
        names = ", ".join(repr(job.spec.job.name) for job in known if not job.called) or "-"
        text = Text("There is no job %(name)r. There are: %(names)s", name=name, names=names)
        raise CommandError(translated(text), returncode=UNKNOWN)
    if len(found) > 1:
        several = ", ".join(job.election for job in found)
        text = Text(
            "The job %(name)r is in several elections; name one of them, too: %(elections)s",
            name=name,
            elections=several,
        )
        raise CommandError(translated(text), returncode=UNKNOWN)
    if found[0].called:
        text = Text(
            "The job %(name)r cannot be run for a request: it is decorated with @once_per_slot, so the application "
            "calls it, with arguments that the leader does not know. Call it where the application does.",
            name=name,
        )
        raise CommandError(translated(text), returncode=UNKNOWN)
    return found[0]


def run(job: Registered, timeout: float) -> Carried:
    """Have the leader run it now. Raise as ``runtime.orders.run_now`` does."""
    return run_now(elections[job.election], job.spec.job.name, asker(), timeout)


def as_dict(job: Registered, carried: Carried) -> dict[str, Any]:
    """Return what is printed as JSON."""
    look = carried.look
    given, taken = look.given > 0, bool(look.instance_id)
    return {
        "job": job.spec.job.name,
        "election": job.election,
        "id": carried.order.order_id,
        "requested_by": carried.order.by,
        "requested_at": instant(look.given) if given else None,
        "outcome": carried.outcome,
        "by": look.instance_id if taken else None,
        "took": look.took if carried.outcome in ("ok", "failed") else None,
        "error": look.error or None,
    }


def sentence(job: Registered, carried: Carried, timeout: float) -> Text:
    """Return what is printed for a user."""
    look, ttl = carried.look, elections[job.election].config.timing.ttl
    names = {
        "job": job.spec.job.name,
        "election": job.election,
        "process": look.instance_id,
        "took": f"{number_format(look.took, 1)} s",
        "error": look.error,
        "outcome": carried.outcome,
        "within": f"{ttl:g} s",
        "timeout": f"{timeout:g} s",
    }
    match carried.outcome:
        case "ok":
            return Text("%(job)s has run in %(process)s: ok after %(took)s.", **names)
        case "failed":
            return Text("%(job)s has run in %(process)s and has failed after %(took)s: %(error)s", **names)
        case "running":
            return Text(
                "%(process)s has taken the request to run %(job)s, and has told no end of the run within %(timeout)s. "
                "The run goes on, or its process has ended without telling.",
                **names,
            )
        case "unknown":
            return Text(
                "It is not known whether %(job)s was run: Redis does not know the request. It has lost data, or the "
                "request has not arrived.",
                **names,
            )
        case _:
            return _not_run(carried.outcome, names)


def _not_run(outcome: str, names: dict[str, str]) -> Text:
    match outcome:
        case "failed-to-start":
            return Text("%(job)s could not be started in %(process)s: %(error)s", **names)
        case "overlapped":
            return Text("%(job)s was not run: its last run still goes on in %(process)s.", **names)
        case "absent":
            return Text(
                "%(job)s was not run: the leader, %(process)s, has no such job. It may run another release.", **names
            )
        case "nobody-leads":
            return Text("%(job)s was not run: no process leads in the election %(election)s.", **names)
        case "withdrawn":
            return Text(
                "%(job)s was not run: no leader has taken the request within %(within)s, or the leader has changed "
                "before it did. The request is withdrawn, so the job will not be run for it any more.",
                **names,
            )
        case _:
            return Text(
                "It is not known whether %(job)s was run: the leader has answered %(outcome)r, which this release does "
                "not know.",
                **names,
            )
