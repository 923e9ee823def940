"""The slots of jobs within one process, in place of ``claim.lua`` and ``finish.lua``: for ``LOCAL``.

NOT guaranteed here: anything about other processes, or about the time before this one started.

Nothing is lost here, and no reply is late. So a slot is decided by its being later than the last one. A run of an
earlier term of this process has either ended, or goes on, and its loop says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from django_leader.protocol.slots import AHEAD

CLAIM, END = 8, 9
"""Words of a claim, and of the end of a run."""


class LocalSlots:
    """The records of the jobs of one election. For one thread at a time."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, str | int]] = {}

    def claim(self, now: int, began: int, claims: Sequence[str], *, leads: bool) -> bytes:
        """Return the reply to claims. ``now``: milliseconds on the clock that slots are counted by.

        ``began``: when the term began. What was due before, an earlier process may have run.
        """
        each = [self._claim(now, began, *claims[first : first + CLAIM]) for first in range(0, len(claims), CLAIM)]
        lines = ["", "decided" if leads else "stale", str(now), "local", *(each if leads else ())]
        return "\n".join(lines).encode()

    def finish(self, ends: tuple[str, ...]) -> bytes:
        """Return the reply to the ends of runs."""
        reply = [""]
        for first in range(0, len(ends), END):
            _, name, _, claim_id, outcome, *_ = ends[first : first + END]
            record = self._records.get(name, {})
            own = record.get("claim") == claim_id
            if own:
                record["outcome"] = outcome
            reply.append("finished" if own else "gone")
        return "\n".join(reply).encode()

    def _claim(
        self,
        now: int,
        began: int,
        name: str,
        slot: str,
        before: str,
        claim_id: str,
        grace: str,
        policy: str,
        here: str,
        last: str,
    ) -> str:
        record = self._records.setdefault(name, {"last": 0, "slot": 0, "outcome": "none"})
        before_slot, outcome, due = record["slot"], record["outcome"], int(slot)
        left_out = int(record["last"]) if 0 < int(record["last"]) < int(before) else 0
        if due > now + AHEAD * 1000:
            verdict = "early"
        elif due <= int(record["last"]):
            verdict = "done"
        elif here in ("1", "blocks"):
            verdict = "overlapped"
        elif not record["last"] and due <= began and policy != "rerun":
            verdict = "unknown"
        else:
            verdict = "missed" if now > due + int(grace) else "run"
        if verdict not in ("early", "done"):
            record["last"] = due
        else:
            left_out = 0
        if verdict == "run":
            record |= {"slot": due, "claim": claim_id, "outcome": "-"}
        return f"{verdict} {slot} {int(verdict == 'run')} {record['last']} {before_slot} {outcome} {left_out}"
