"""Slots: the requests by which a leader claims the right to start a job, and says how its run has ended. No I/O.

NOT guaranteed here:

- That a run has an end, or is done once: a process may die in the middle of it. Such a slot is *in doubt*.
- That a run ends with the term of its leader. Its code must ask, or write with the token.
- Anything, if data are lost and the server's clock goes back at the same time, and no candidate is left that saw that
  clock before. The same slots then come once more, and nobody knows of the first time.

A *slot* is one scheduled instant of one job (``schedule``). A *claim* asks Redis for the right to start its run.
``claim.lua`` decides it in one step. The rules, which the tests name:

- J1 A slot is started at most once: its claim is granted only if it is later than every slot of the job that was
  decided before. (With ``rerun``, J5, a slot that is in doubt is started again.)
- J2 A claim is granted only to the term that leads by what Redis knows, while its lease lasts there. A stale leader is
  refused by Redis, whatever it believes itself.
- J3 Only the server's clock counts. A slot more than a second ahead of it is ``early``. If that clock goes back, jobs
  wait until it has come again to where it was; none is started twice.
- J4 Every slot is run, or the stream of runs says why not. Slots that were not claimed in time are ``missed``, but for
  the last one, which may start within its ``grace``.
- J5 A run whose end nobody has told, and whose term is over, is in doubt. ``skip``: it is recorded as that.
  ``rerun``: the next leader starts it again, three times at most.
- J6 When data were lost, nobody knows which slots were started. So all slots up to the end of the quarantine are in
  doubt. A leader that goes on knows those of its own term, and no other process has started one meanwhile.
- J7 A claim has an id. If its reply is lost, the same claim is sent again and gets the same answer, because nothing was
  started for it. A copy that comes late starts nothing.
- J8 A slot that comes while the last run of its job goes on is ``overlapped``, and not run. A run that takes longer
  than ``max_run`` counts as ``hung``, which is recorded, and the next may start beside it.
- J9 With ``MIN_REPLICAS`` a claim counts only when that many replicas have it, like a grant.
- J10 Whatever others write to the keys: no value keeps a job from running for longer than a year, and nothing but a key
  of a wrong type is an error.

Why J1 holds. A claim is one step in Redis, and the last slot that was decided only grows there, so two claims of one
slot on the same data cannot both be granted. On other data (a loss, another server) a slot is granted only if it lies
after the quarantine, and so after the lease of every leader that may have claimed on the lost data, or by a leader
whose own term began before the loss, and which names the last slot that it has claimed itself. The server's clock may
have gone back meanwhile, so that slots before the loss come once more. So a candidate that is granted a term after a
loss says what the server's clock would show had it not been set, and slots up to then are in doubt, too
(``campaign.lua``).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, cast, get_args

from .config import Keys
from .template import Request, script

AHEAD = 1.0
"""Seconds by which a slot may be ahead of the server's clock: the leader reckons that clock, and may be late a bit."""
LONGEST_NAME = 200
"""Characters of the name of a job, at most."""
LONGEST_ERROR = 500
"""Characters of an error that are kept."""
LONGEST_NUMBER = 24
"""Characters of a number in a reply, at most."""

Verdict = Literal["run", "rerun", "done", "missed", "overlapped", "in-doubt", "early", "stale", "late"]
InDoubt = Literal["skip", "rerun"]
Outcome = Literal["ok", "failed", "failed-to-start"]


class Claim(NamedTuple):
    """What a leader says of the slot that it claims. Instants are milliseconds of the server's clock."""

    name: str
    """Of the job."""
    slot: int
    before: int
    """The slot of the job before that one."""
    claim_id: str
    """A text without spaces that no other claim has."""
    grace: float
    """Seconds after the slot up to which its run may start."""
    max_run: float = 0.0
    """Seconds after which a run counts as hung; 0 for never."""
    in_doubt: InDoubt = "skip"
    running: bool = False
    """Whether the last run of the job goes on in this process, as far as this process has not told its end."""
    own_last: int = 0
    """The last slot of the job that this term knows to be decided; 0 for none."""


class Decision(NamedTuple):
    """What became of a claim."""

    verdict: Verdict
    """See ``claim.lua``."""
    at: float
    """Seconds on the server's clock when it was decided."""
    slot: int
    """The slot to run: of ``rerun`` not the one that was claimed."""
    attempt: int
    """How many starts of this slot there were, this one included."""
    last_slot: int
    """The slot of the run before; 0 if there was none."""
    last_outcome: str
    """How that run has ended; ``none`` if there was none."""


class SlotRequests:
    """The requests of one term about slots. For one thread at a time.

    ``began``: seconds on the server's clock when the term was granted.
    """

    def __init__(self, keys: Keys, candidate_id: str, token: int, began: float) -> None:
        self._state, self._names = keys.state, job_keys(keys)
        self._who = candidate_id, token
        self._began = math.floor(began * 1000)

    def claim(self, claim: Claim, not_after: float) -> Request:
        """Claim a slot. The answer is a ``Decision``.

        ``not_after``: seconds on the server's clock after which the claim is refused as too late.
        """
        words = (
            *self._who, math.floor(not_after * 1000), claim.name, claim.slot, claim.before, claim.claim_id,
            math.floor(claim.grace * 1000), math.ceil(claim.max_run * 1000), claim.in_doubt, int(claim.running),
            self._began, claim.own_last,
        )  # fmt: skip
        return Request(script("claim", (self._state, *self._names), words, decision))

    def finish(self, claim: Claim, slot: int, outcome: Outcome, took: float, error: str = "") -> Request:
        """Say how a run has ended, after ``took`` seconds. The answer is whether its record was still there."""
        words = (
            *self._who, claim.name, slot, claim.claim_id, outcome, math.ceil(took * 1000), error[:LONGEST_ERROR],
        )  # fmt: skip
        return Request(script("finish", self._names, words, lambda reply: reply.endswith(b"\nfinished")))


def job_keys(keys: Keys) -> tuple[str, str]:
    """Return the keys of an election's jobs: what is known of each, and the stream of runs."""
    root = keys.wake.removesuffix("wake")
    return f"{root}jobs", f"{root}runs"


def decision(reply: bytes) -> Decision:
    """Return the answer to a claim. Raise an exception of any kind for a reply that cannot be one. Local."""
    _, verdict, at, slot, attempt, last_slot, outcome = reply.decode("utf-8", "replace").split("\n")
    if max(map(len, (at, slot, attempt, last_slot))) > LONGEST_NUMBER or verdict not in get_args(Verdict):
        raise ValueError("no decision")
    return Decision(cast(Verdict, verdict), int(at) / 1000, int(slot), int(attempt), int(last_slot), outcome)
