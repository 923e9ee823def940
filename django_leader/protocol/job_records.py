"""What Redis has recorded of jobs, for those who look at them. No I/O.

NOT guaranteed here: that what is recorded is true. Other programs may have written to the keys, and data may be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .config import Keys
from .records import instance_of, parse_number, printable
from .slots import slot_keys
from .template import Request, script


class JobRecord(NamedTuple):
    """What is recorded of one job. Instants are milliseconds on the server's clock. What cannot be read is empty or 0.

    The fields have the meanings that ``claim.lua`` gives them.
    """

    last: int = 0
    why: str = ""
    slot: int = 0
    token: int = 0
    started: int = 0
    attempt: int = 0
    took: int = 0
    outcome: str = ""
    instance_id: str = ""
    """The process that has started the last run."""
    claim: str = ""
    """The claim of the last run."""


class JobRecords(NamedTuple):
    """The records of some jobs at one instant."""

    at: int
    """Milliseconds on the server's clock."""
    each: tuple[JobRecord | None, ...]
    """In the order of the names; None for a job of which nothing is recorded, or nothing that can be read."""


def job_records(keys: Keys, names: Sequence[str]) -> Request:
    """Ask for what is recorded of jobs. The answer is ``JobRecords``."""

    def parse(reply: Any) -> JobRecords:
        _, at, *each = reply
        if len(each) != len(names):
            raise ValueError(f"{len(each)} answers to {len(names)}")
        return JobRecords(int(at), tuple(_record(text.decode("utf-8", "replace")) for text in each))

    return Request(script("jobs", slot_keys(keys)[:1], tuple(names), parse))


def _record(text: str) -> JobRecord | None:
    front, known, process = text.partition(" process=")
    if not known or not front.startswith("1 "):
        return None
    words = dict(word.split("=", 1) for word in front.split(" ")[1:] if "=" in word)

    def number(name: str) -> int:
        return parse_number(words.get(name, ""))

    return JobRecord(
        last=number("last"),
        why=printable(words.get("why", "")),
        slot=number("slot"),
        token=number("token"),
        started=number("started"),
        attempt=number("attempt"),
        took=number("took"),
        outcome=printable(words.get("outcome", "")),
        instance_id=printable(instance_of(process)),
        claim=printable(words.get("claim", "")),
    )
