"""What users are shown of the elections: by the admin page and by ``manage.py leader_status``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import pgettext

from .exceptions import RedisUnavailable
from .handler import LOCAL_STATUS, elections
from .protocol.records import ElectionStatus, other_project
from .runtime.diagnostics import shared_key
from .runtime.queries import ask_together
from .settings import read
from .texts import Text

if TYPE_CHECKING:
    from .runtime.election import LeaderElection

OPERATIONS = 4
"""How many operations one question may take, each of which may time out: connect, log in, choose the database, ask."""


@dataclass(frozen=True)
class Report:
    """One election as this process sees it, and as Redis has it."""

    alias: str
    election: LeaderElection | None = None
    """None if the settings are wrong."""
    status: ElectionStatus | None = None
    """None if Redis could not be asked."""
    problem: ImproperlyConfigured | RedisUnavailable | None = None

    @property
    def this_process(self) -> str:
        """What this process is: it ``leads``, ``follows``, ``is a candidate`` or ``is not participating``. Local.

        It follows only a leader that is known to be there: no process follows while Redis is unreachable.
        """
        if self.election and self.election.lease_left:
            return Text("leads")
        if self.election is None or not self.election.running:
            return Text("is not participating")
        led = self.status and self.status.leader and not self.election.outage
        return Text("follows") if led else Text("is a candidate")

    @property
    def other_project(self) -> str:
        """The fingerprint of another project whose process leads, by mistake; empty if it is ours. Local."""
        return other_project(self.status.leader, self.election.config.projects) if self.status and self.election else ""

    @property
    def unknown(self) -> bool:
        """Whether it is unknown what the others do: for a ``LOCAL`` election that this process does not run. Local."""
        return self.election is not None and read(self.alias).local and not self.election.running

    @property
    def warning(self) -> str:
        """What is wrong although the question was answered; empty if nothing is. Local."""
        if self.election and (other := self.other_project):
            return shared_key(other, self.election.config)
        return LOCAL_STATUS if self.election and read(self.alias).local else ""


def translated(text: str) -> str:
    """Return a ``Text`` in the active language. Any other text, such as an error of Redis, stays as it is. Local."""
    if not isinstance(text, Text):
        return text
    template = pgettext("leader election", text.template)
    return template % text.names if text.names else template


def reports(aliases: Sequence[str]) -> list[Report]:
    """Return a report for each alias, in their order. What cannot be said is a ``problem`` in the report.

    One round trip for each, all at a time. If Redis does not answer, it takes one timeout of an operation (2 s at
    most), and never longer than four.
    """
    found: list[Report] = []
    for alias in aliases:
        try:
            read(alias)
            found.append(Report(alias, elections[alias]))
        except ImproperlyConfigured as error:
            found.append(Report(alias, problem=error))
    asked = [report.election for report in found if report.election]
    seconds = OPERATIONS * max((election.config.timing.operation for election in asked), default=0.0)
    answers = iter(ask_together([election.status for election in asked], seconds))
    return [_answered(report, next(answers)) if report.election else report for report in found]


def _answered(report: Report, answer: ElectionStatus | Exception | None) -> Report:
    if answer is None:
        answer = RedisUnavailable(f"LEADER_ELECTIONS[{report.alias!r}]: Redis has not answered in time")
    if isinstance(answer, ElectionStatus):
        return replace(report, status=answer)
    if isinstance(answer, ImproperlyConfigured | RedisUnavailable):
        return replace(report, problem=answer)
    raise answer
