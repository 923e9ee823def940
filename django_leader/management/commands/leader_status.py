"""``manage.py leader_status``: who leads."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext, suppress
from datetime import datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.formats import number_format
from django.utils.timezone import localtime
from django.utils.translation import override, pgettext, pgettext_lazy

from django_leader import acl
from django_leader.conf import BEAT_ALIAS
from django_leader.handler import elections
from django_leader.management.output import put, put_table
from django_leader.report import Report, reports, translated
from django_leader.settings import read
from django_leader.startup.autostart import BEAT, VARIABLE, Seen, decide
from django_leader.startup.starter import starter
from django_leader.system import forks
from django_leader.system.pidfd import unsupported
from django_leader.texts import Text

LED, LEADERLESS, UNKNOWN = 0, 1, 2
HIDDEN = ("status", "error", "quarantined", "other_project")
"""Fields for programs, or said in a sentence below the table."""
TITLES = {
    "election": pgettext_lazy("leader election", "ELECTION"),
    "leader": pgettext_lazy("leader election", "LEADER"),
    "host": pgettext_lazy("leader election", "HOST"),
    "pid": pgettext_lazy("leader election", "PID"),
    "since": pgettext_lazy("leader election", "SINCE"),
    "last_heartbeat": pgettext_lazy("leader election", "LAST HEARTBEAT"),
    "lease_left": pgettext_lazy("leader election", "LEASE LEFT"),
    "token": pgettext_lazy("leader election", "TOKEN"),
    "candidates": pgettext_lazy("leader election", "CANDIDATES"),
    "this_process": pgettext_lazy("leader election", "THIS PROCESS"),
    "process": pgettext_lazy("leader election", "PROCESS"),
    "starts": pgettext_lazy("leader election", "STARTS"),
    "because": pgettext_lazy("leader election", "BECAUSE"),
}
STARTS = {
    "now": pgettext_lazy("leader election", "now"),
    "in each worker": pgettext_lazy("leader election", "in each worker"),
    "at the first request": pgettext_lazy("leader election", "at the first request"),
    "never": pgettext_lazy("leader election", "never"),
}


class Command(BaseCommand):
    """The command, which asks Redis once for each election, for all at a time."""

    help = (
        "Show the leader of each election, or of the named ones; 'command:<name>' is the election of a command. "
        "Exit status: 0 if each has a leader, 1 if one has none, 2 if that cannot be found out (Redis is "
        "unreachable, the settings cannot be used, an alias is unknown, or LOCAL is True and this process is no "
        "candidate) or the output cannot be written. With --acl or --explain: 0 or 2."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the arguments: one election or all; for users or for programs."""
        parser.add_argument("election", nargs="*", help="alias in LEADER_ELECTIONS; all elections if left out")
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
        parser.add_argument(
            "--acl",
            action="store_true",
            help="print the command that creates a Redis user with the least rights; does not connect to Redis",
        )
        parser.add_argument(
            "--explain",
            action="store_true",
            help="print where an election would start by itself, and why; does not connect to Redis",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the answer, and end with the exit status. Users get it in the active language, programs in English."""
        with override(None) if options["json"] else nullcontext():
            self._answer(options)

    def _answer(self, options: dict[str, Any]) -> None:
        try:
            aliases = options["election"] or list(elections)
            if options["acl"]:
                rows = [{"cache": cache, "acl": line} for cache, line in acl.lines(options["election"]).items()]
            elif options["explain"]:
                rows = [row for alias in aliases for row in _explain(alias)]
            else:
                rows = [_row(report) for report in reports(aliases)]
        except ImproperlyConfigured as error:
            raise CommandError(str(error), returncode=UNKNOWN) from error
        try:
            if options["json"]:
                put(json.dumps(rows, indent=2, default=datetime.isoformat), self.stdout)
            elif options["acl"]:
                self._print_acl(rows)
            else:
                self._print(rows)
        except OSError as error:
            with suppress(OSError):
                text = Text("The output cannot be written: %(error)s", error=error.strerror)
                put(translated(text), self.stderr)
            raise SystemExit(UNKNOWN) from error
        status = LED if options["explain"] or options["acl"] else max(row["status"] for row in rows)
        if status != LED:
            raise SystemExit(status)

    def _print_acl(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if len(rows) > 1:
                put(f"# the Redis of CACHES[{row['cache']!r}]", self.stdout)
            put(row["acl"], self.stdout)

    def _print(self, rows: list[dict[str, Any]]) -> None:
        names = [name for name in rows[0] if name not in HIDDEN]
        titles, cells = [TITLES[name] for name in names], [[_show(row[name]) for name in names] for row in rows]
        put_table(titles, cells, self.stdout)
        for row in rows:
            if row.get("error"):
                put(row["error"], self.stderr)
            if row.get("quarantined"):
                text = Text(
                    "%(election)s: Redis is new or has lost data; no leader is elected for up to %(left)s (QUARANTINE)",
                    election=row["election"],
                    left=_show(row["lease_left"]),
                )
                put(translated(text), self.stderr)


def _row(report: Report) -> dict[str, Any]:
    if isinstance(report.problem, ImproperlyConfigured):
        raise report.problem
    row: dict[str, Any] = dict.fromkeys(
        ("election", "leader", "host", "pid", "since", "last_heartbeat", "lease_left", "token", "candidates")
    )
    row |= {"election": report.alias, "this_process": translated(report.this_process), "status": UNKNOWN, "error": None}
    row |= {"quarantined": False, "other_project": report.other_project or None}
    if (found := report.status) is None:
        return row | {"error": str(report.problem)}
    if report.warning:
        row["error"] = f"{report.alias}: {translated(report.warning)}"
    if report.unknown:
        return row
    row |= {"token": found.fencing_token or None, "candidates": found.candidates, "status": LEADERLESS}
    row["quarantined"] = found.quarantined
    row["lease_left"] = round(found.lease_left, 3) or None
    if leader := found.leader:
        row |= {
            "leader": leader.instance_id,
            "host": leader.hostname,
            "pid": leader.pid or None,
            "since": leader.started_at,
            "last_heartbeat": leader.last_heartbeat,
            "status": LED,
        }
    return row


def _explain(alias: str) -> list[dict[str, str]]:
    found = read(alias)
    variable, here = os.environ.get(VARIABLE, ""), forks.unsupported()
    processes = {
        "manage.py runserver": Seen(variable, here, command="runserver", serving=True),
        pgettext("leader election", "another manage.py command"): Seen(variable, here, command="migrate"),
        pgettext("leader election", "WSGI or ASGI server"): Seen(variable, here, entry_point=True),
        pgettext("leader election", "gunicorn --preload, uWSGI master"): Seen(variable, here, prefork_master=True),
        pgettext("leader election", "Celery worker, Celery beat"): Seen(variable, here, celery=True),
        pgettext("leader election", "script or worker of your own"): Seen(variable, here),
        pgettext("leader election", "test run"): Seen(variable, here, testing=True),
    }
    rows = {where: decide(seen, found.autostart, found.serving_commands) for where, seen in processes.items()}
    if alias == BEAT_ALIAS:
        rows = dict.fromkeys(rows, BEAT)
    if alias in starter.decisions:
        rows = {pgettext("leader election", "this process"): starter.decisions[alias], **rows}
    explained = [
        {"election": alias, "process": where, "starts": str(STARTS[d.start]), "because": translated(d.why)}
        for where, d in rows.items()
    ]
    off = Text("SAME_HOST_TAKEOVER is False") if not found.config.same_host_takeover else unsupported()
    starts = pgettext("leader election", "off") if off else pgettext("leader election", "on")
    because = translated(off or Text("a leader on this host is replaced when it dies"))
    takeover = pgettext("leader election", "same-host take-over")
    return [*explained, {"election": alias, "process": takeover, "starts": starts, "because": because}]


def _show(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{localtime(value):%Y-%m-%d %H:%M:%S %Z}"
    if isinstance(value, float):
        return f"{number_format(f'{value:g}')} s"
    return "-" if value in (None, "") else str(value)
