"""Frozen values that cross the package's borders: to and from Redis, and to the application."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, NamedTuple

NONCE_LENGTH = 16
LONGEST_NAME = 255
"""Characters of an instance id or a host name: the longest DNS name has 253."""
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, what turns the direction of writing around, and halves of characters."""
LATEST_TIME = datetime(9998, 12, 31, tzinfo=timezone.utc)
"""It can be shown in every time zone."""


@dataclass(frozen=True)
class LeaderInfo:
    """Who leads, as the leader itself published it. Times are aware; they are for display, never for a decision.

    A field that the leader did not publish, or not in a form that can be read, is empty, ``None`` or 0.
    """

    instance_id: str
    hostname: str = ""
    started_at: datetime | None = None
    last_heartbeat: datetime | None = None
    fencing_token: int = 0
    pid: int = 0
    project: str = ""
    """What names its project (``Config.projects``)."""

    def to_json(self) -> str:
        """The JSON object that is stored under the info key. Times are RFC 3339, in UTC."""
        return json.dumps(self.as_dict(), ensure_ascii=False)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in vars(self).items()}

    @classmethod
    def from_json(cls, text: str, instance_id: str) -> LeaderInfo:
        """What can be read of ``text``, for the leader ``instance_id``; never raises.

        The lease says who leads; the info only describes it. So garbage, the info of another version, or that of
        a former leader takes nothing away from the answer.
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
    """Return what names the leader's project; empty if that is one of ``projects``, or if either is not known. Pure."""
    known = leader is not None and leader.project and projects
    return leader.project if known and leader and leader.project not in projects else ""


@dataclass(frozen=True)
class ElectionStatus:
    """One election as Redis has it at one instant."""

    leader: LeaderInfo | None
    lease_left: float
    """Seconds until the lease in Redis runs out. Without a leader: for which nobody may lead yet; 0 when one may."""
    fencing_token: int
    """The highest token granted so far; 0 when there was none."""
    candidates: int
    """How many processes take part, the leader among them."""
    quarantined: bool = False
    """Whether nobody leads, and nobody may before ``lease_left`` is over, because Redis has lost data."""


@dataclass(frozen=True)
class Event:
    """An entry of the election's history."""

    at: datetime
    kind: str
    instance_id: str
    fencing_token: int
    reason: str = ""

    @classmethod
    def from_texts(cls, entry: str, kind: str, reason: str, holder: str, token: str) -> Event:
        """Return an entry of the stream, of which ``entry`` is the id; never raises. Local.

        What cannot be read of it is empty, 0, or the last time that can be shown.
        """
        at = parse_number(entry.partition("-")[0], digits=20) / 1000
        when = datetime.fromtimestamp(min(at, LATEST_TIME.timestamp()), timezone.utc)
        return cls(when, printable(kind), printable(instance_of(holder)), parse_number(token), printable(reason))


class Preconditions(NamedTuple):
    """What a candidate knows, and a request of it says, so that the script can refuse what is no longer true."""

    highest_token: int = 0
    """The highest token that the candidate has seen."""
    expired_version: str = ""
    """The state that the candidate has proved to be over; empty when it has not. Of a campaign."""
    acknowledged_version: str = ""
    """The state as the leader was answered last: that reply arrived. Of a renewal and a release."""
    not_after: float = 0.0
    """Seconds on the server's clock after which the request is too old to be executed; 0 when that is not known."""
    unrecorded_end: tuple[int, str] = (0, "")
    """Token and reason of the candidate's last term, if the history does not have its end yet."""
    dead: tuple[str, int] = ("", 0)
    """Holder and token of a term whose process is proved to be dead."""


NO_PRECONDITIONS = Preconditions()


class Answer(NamedTuple):
    """What a script answered to one step of a candidate. The verdicts are explained in the scripts."""

    verdict: str
    token: int
    """The term's, or the highest that Redis knows."""
    holder: str
    """The candidacy (``candidate_id``) that holds the lease; empty when nobody does."""
    remaining: float
    """Seconds by the server's clock until the state ends."""
    candidates: int
    duplicate: str
    """Another candidacy under the same instance id, told only to one that has just joined."""
    at: float
    """Seconds on the server's clock, at which the script ran."""
    version: str
    """Names the state as the script left it; every change gives it another."""
    duration: float
    """Seconds from the instant at which the state was set to its end."""
    process: str = ""
    """The holder's process, for those on its host. Of a hold: what the clocks of its host showed (``hold``)."""
    mail: bool = False
    """Whether there is something in the leader's inbox."""
    held_since: float | None = None
    """Of a hold: the instant on our boot clock at which it began (``hold``); None if no clock can tell."""


def instance_of(candidate_id: str) -> str:
    """The instance id of a candidacy: ``candidate_id`` is the id, a colon and a nonce."""
    head, colon, nonce = candidate_id.rpartition(":")
    return head if colon and len(nonce) == NONCE_LENGTH else candidate_id


def printable(text: str, longest: int = LONGEST_NAME) -> str:
    """``text`` as it is shown: without what a terminal or a page would not show as it is, and cut. Local."""
    return UNPRINTABLE.sub("", text[: 2 * longest])[:longest]


def parse_number(text: str, *, digits: int = 16) -> int:
    """Return the number that ``text`` is, of at most so many digits, or 0; never raises. Local."""
    return int(text) if len(text) <= digits and text.isascii() and text.isdigit() else 0


def utc_now() -> datetime:
    """The wall time, for display."""
    return datetime.now(timezone.utc)


def parse_time(value: Any) -> datetime | None:
    """An RFC 3339 time as an aware datetime; ``None`` for anything else. Reads nanoseconds (Go) and ``Z``, too."""
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
