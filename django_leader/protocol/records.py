"""Frozen values that cross the package's borders: to and from Redis, and to the application."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple

NONCE_LENGTH = 16
LONGEST_NAME = 255
"""Characters of an instance id or a host name: the longest DNS name has 253."""
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, characters that reverse the direction of writing, and surrogates."""
LATEST_TIME = datetime(9998, 12, 31, tzinfo=timezone.utc)
"""A time that can be shown in every time zone."""


@dataclass(frozen=True)
class LeaderInfo:
    """Who leads, as the leader itself published it. Times are aware; they are for display, never for a decision.

    A field that the leader did not publish, or did not publish in a readable form, is empty, ``None`` or 0.
    """

    instance_id: str
    """The name of the leader's process in the election."""
    hostname: str = ""
    """The name of its host."""
    started_at: datetime | None = None
    """When its term began, by the wall clock of its host."""
    last_heartbeat: datetime | None = None
    """When it sent its last heartbeat, by the wall clock of its host."""
    fencing_token: int = 0
    """The number of its term."""
    pid: int = 0
    """Its process id. Containers on one host may have the same."""
    project: str = ""
    """A text that names the leader's project (``Config.projects``)."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, as they are stored under the info key. Local.

        Times are RFC 3339, in UTC.
        """
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in vars(self).items()}

    @classmethod
    def from_json(cls, text: str, instance_id: str) -> LeaderInfo:
        """Return what can be read of ``text``, for the leader ``instance_id``; never raises. Local.

        The lease says who leads; the info only describes the leader. So garbage, the info of another version, or that
        of a former leader does not make the answer wrong.
        """
        info = cls(printable(instance_id))
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            return info
        if not isinstance(data, dict) or data.get("instance_id") != instance_id:
            return info
        return replace(
            info,
            hostname=printable(_of(str, data.get("hostname"), "")),
            started_at=parse_time(data.get("started_at")),
            last_heartbeat=parse_time(data.get("last_heartbeat")),
            fencing_token=_number_of(data.get("fencing_token")),
            pid=_number_of(data.get("pid")),
            project=printable(_of(str, data.get("project"), "")),
        )


def other_project(leader: LeaderInfo | None, projects: tuple[str, ...]) -> str:
    """Return the name of the leader's project; empty if it is one of ``projects``, or if either is unknown. Pure."""
    known = leader is not None and leader.project and projects
    return leader.project if known and leader and leader.project not in projects else ""


@dataclass(frozen=True)
class ElectionStatus:
    """One election as Redis has it at one instant."""

    leader: LeaderInfo | None
    lease_left: float
    """Seconds until the lease in Redis expires. Without a leader: until a candidate may lead; 0 when one may."""
    fencing_token: int
    """The highest token granted so far; 0 when there was none."""
    candidates: int
    """How many processes are candidates, including the leader."""
    quarantined: bool = False
    """Whether there is no leader, and none is elected before ``lease_left`` is over, because Redis has lost data.

    A healthy leader may reclaim its term before. A candidate that has just started may need longer to be elected.
    """


@dataclass(frozen=True)
class Event:
    """An entry of the election's history: a change of leadership. A field that cannot be read is empty, or 0."""

    at: datetime
    """When Redis recorded it, by the server's clock; aware, in UTC, to the millisecond."""
    kind: str
    """What happened. A term began: ``elected``, or ``taken-over`` if the candidate claimed a lease that another one had
    not released. A term ended: one of the reasons of ``lost_leadership``. Redis lost data: ``quarantined``, or
    ``reclaimed`` by the leader. ``reason`` tells the two kinds ``quarantined`` apart."""
    instance_id: str
    """The candidate that it happened to; of the loss of data the one that noticed."""
    fencing_token: int
    """The number of the term; of the loss of data the highest that is known."""
    reason: str = ""
    """Of ``taken-over``: ``died`` if the last leader's process was dead. Of ``quarantined`` and ``reclaimed``: what
    Redis has lost, if this candidate noticed it first; ``term ended`` if a quarantine ended a term. Otherwise empty."""

    @classmethod
    def from_texts(cls, entry: str, kind: str, reason: str, holder: str, token: str) -> Event:
        """Return an entry of the stream, whose id is ``entry``; never raises. Local.

        A field that cannot be read is empty, 0, or the last time that can be shown.
        """
        at = parse_number(entry.partition("-")[0], digits=20) / 1000
        when = datetime.fromtimestamp(min(at, LATEST_TIME.timestamp()), timezone.utc)
        return cls(when, printable(kind), printable(instance_of(holder)), parse_number(token), printable(reason))


class Preconditions(NamedTuple):
    """What a candidate knows and says in a request, so that the script can refuse what is no longer true."""

    highest_token: int = 0
    """The highest token that the candidate has seen."""
    expired_version: str = ""
    """The version of a state that the candidate has proved to be over; empty without a proof. Of a campaign."""
    acknowledged_version: str = ""
    """The version of the state in the last answer to the leader, which proves that this reply arrived. Of a renewal and
    a release."""
    not_after: float = 0.0
    """Seconds on the server's clock after which the request is too old to be executed; 0 when that is not known."""
    unrecorded_end: tuple[int, str] = (0, "")
    """Token and reason of the candidate's last term, if the history does not have its end yet."""
    dead: tuple[str, int] = ("", 0)
    """Holder and token of a term whose process is proved to be dead."""
    reckoned: float = 0.0
    """Seconds: the latest that the server's clock can have shown, as far as the candidate has seen it; 0 if it did not.
    Of a campaign."""
    began: float = 0.0
    """Seconds on the server's clock: ``Answer.began`` of the term. Of a reclaim."""


NO_PRECONDITIONS = Preconditions()


class Answer(NamedTuple):
    """What a script answered to one step of a candidate. The verdicts are explained in the scripts."""

    verdict: str
    token: int
    """The token of the term, or the highest that Redis knows."""
    holder: str
    """The candidacy (``candidate_id``) that holds the lease; empty when none does."""
    remaining: float
    """Seconds by the server's clock until the state ends."""
    candidates: int
    duplicate: str
    """Another candidacy with the same instance id. Only a candidate that has just joined is told of it."""
    at: float
    """Seconds on the server's clock when the script ran."""
    version: str
    """The version of the state as the script left it. Every change makes another one."""
    duration: float
    """Seconds from the instant at which the state was set to its end."""
    process: str = ""
    """The holder's process, for candidates on its host. Of a hold: what the clocks of its host showed (``hold``)."""
    mail: bool = False
    """Whether there is a message in the leader's inbox."""
    held_since: float | None = None
    """Of a hold: the instant on our boot clock at which it began (``hold``); None if no clock can tell."""
    began: float = 0.0
    """Of a grant: seconds on the server's clock when the term began, or the latest that it is known to have shown."""


@dataclass(frozen=True)
class NotRun:
    """What is returned in place of the result of a function that was not run. It is false."""

    reason: str
    """Why it was not run. ``@leader_only`` gives ``not-leading``."""

    def __bool__(self) -> Literal[False]:
        return False


def instance_of(candidate_id: str) -> str:
    """Return the instance id of a candidacy. A ``candidate_id`` is that id, a colon and a nonce."""
    head, colon, nonce = candidate_id.rpartition(":")
    return head if colon and len(nonce) == NONCE_LENGTH else candidate_id


def printable(text: str, longest: int = LONGEST_NAME) -> str:
    """Return ``text`` as it is shown. Local.

    It is cut, and lacks the characters that a terminal or a page would not show as they are.
    """
    return UNPRINTABLE.sub("", text[: 2 * longest])[:longest]


def parse_number(text: str, *, digits: int = 16) -> int:
    """Return the number that ``text`` is, of at most ``digits`` digits, or 0; never raises. Local."""
    return int(text) if len(text) <= digits and text.isascii() and text.isdigit() else 0


def utc_now() -> datetime:
    """Return the wall time, for display."""
    return datetime.now(timezone.utc)


def parse_time(value: Any) -> datetime | None:
    """Parse an RFC 3339 time, also with nanoseconds (Go) and ``Z``, as an aware datetime; None for other values."""
    if not isinstance(value, str):
        return None
    text = re.sub(r"(\.\d{1,6})\d*", lambda m: m[1].ljust(7, "0"), value.strip()).replace("Z", "+00:00")
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    # Go's zero time and the like cannot be shown in every time zone.
    return time if time.tzinfo and 1970 <= time.year <= LATEST_TIME.year else None


def _number_of(value: Any) -> int:
    number: int = _of(int, value, 0)
    return number if 0 <= number < 2**63 else 0


def _of(kind: type, value: Any, default: Any) -> Any:
    return value if isinstance(value, kind) and not isinstance(value, bool) else default
