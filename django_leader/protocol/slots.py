"""Slots: the requests by which a leader claims the right to start a job, and says how its run has ended. No I/O.

NOT guaranteed here:

- That a run has an end, or is done once: a process may die in the middle of it. Such a slot is *in doubt*.
- That a run ends with the term of its leader. Its code must ask, or write with the token. So a run of a deposed leader
  may go on beside the next one.
- Anything, where two processes can lead at a time: a failover without ``MIN_REPLICAS``, or a ``QUARANTINE`` that is
  shorter than a lease.
- Anything, if data are lost that the server hides: a restart with older data where ``INFO`` is denied.
- Anything, if data are lost, the server's clock was set back before that, and nobody who saw the clock as it was has
  told so: the leaders since, or a candidate in the quarantine. Slots then come once more, and nobody knows of the first
  time. The same is true of a clock that is set there and back between two answers to each of these.
- Anything, if the server's clock is set back while a claim is under way, or after the last answer before it, its caller
  has given it up, and the records of jobs are deleted before it arrives.

A *slot* is one scheduled instant of one job (``schedule``). A *claim* asks Redis for the right to start its run.
``claim.lua`` decides it in one step. ``jobs`` decides what to claim, and when. The rules, which the tests name:

- J1 A slot is started at most once: its claim is granted only if it is later than every slot of the job that was
  decided before. (With ``rerun``, J5, a slot that is in doubt is started again.)
- J2 A claim is granted only to the term that leads by what Redis knows, while its lease lasts there. A stale leader is
  refused by Redis, whatever it believes itself. A run starts only if its term still leads when the answer has come.
- J3 Only the server's clock counts. A slot more than a second ahead of it is ``early``. If that clock is set back, jobs
  are ``waiting`` until it has come again to where it was; none is started twice.
- J4 Every slot of a schedule is run, or the stream of runs says why not. Slots that were not claimed in time are
  ``missed``, but for the last one, which may start within its ``grace``. What was due before the first record of a job,
  and up to the beginning of that term, is ``unknown``. So are slots that an older record may lack. If two releases have
  different schedules for one name, a slot of one of them that is earlier than the last that was decided is not told.
- J5 A run whose end nobody has told, and whose term is over, is in doubt. ``skip``: it is recorded as that.
  ``rerun``: the next claim of the job starts it again, three times at most, if it was started with this policy.
- J6 When data were lost, a record may be older than what was started. So slots up to the beginning of the present term
  are in doubt. Those of the term itself its leader knows, and no other process has started one meanwhile.
- J7 A claim has an id. If its reply is lost, the same claim is sent again and gets the same answer, because nothing was
  started for it. (After its grace it is ``missed``; of one that was not granted it is ``done``.) It is sent again only
  when the first is too old to be executed, so a copy that comes late starts nothing and writes nothing. A run that was
  never told to have begun or ended, and does not go on, is ``unreported``.
- J8 A slot that comes while the last run of its job goes on in this process is ``overlapped``, and not run. A run that
  its process takes for hung is recorded as ``hung``, and the next may start beside it, up to three at a time. While as
  many runs go on in a process as may, nothing is claimed that could start another.
- J9 With ``MIN_REPLICAS`` a claim counts only when that many replicas have it, like a grant.
- J10 Whatever others write to the keys, nothing is started twice. A record that cannot be read puts slots up to now in
  doubt. A forged record or stream may keep a job from running, until somebody deletes it.
- J11 An order to run a job now (``orders``) is a run outside of the schedule: it decides no slot. It is started at most
  once, and only by the term for which it was given, while that term leads by what Redis knows. The process of that term
  knows what it has started, so a loss of data, a copy of the order and a lost reply start nothing twice. It is not
  started after it is too old, nor after it was withdrawn. If the last run of the job goes on in that process, it is
  ``overlapped``, even if that run counts as hung, because only a claim records that. A slot that comes while the run of
  an order goes on is ``overlapped``, too (J8).

Why J1 holds. A claim is one step in Redis, and the last slot that was decided only grows there, so two claims of one
slot on the same data cannot both be granted. Each loss of data that Redis can tell makes another *memory* of the state,
and so tells records from before it. On such a record, or without one, a slot is granted only if it is later than

- all that earlier terms can have started: the latest time that the server's clock is known to have shown when the
  present term began, a second by which a claim may be early, and a second by which the clock may have been set back
  unnoticed. Each grant keeps that time if it is later than its own (``campaign.lua``);
- all that this term has started, which its leader names. It names the memory, too, to which that knowledge belongs.
  A claim that names another memory decides nothing. So a copy of an earlier claim, which knows less, cannot make a
  record that the next term would trust.

A server that was restarted with older data, and that no campaign or reclaim has met since, may still take an earlier
term for the present one. It grants that term's claim, but no run starts by it (J2). To the present term such a server
either says ``stale``, or its data are no older than the grant of that term. Then it lacks only what this term has
started itself.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar, cast, get_args

from .config import Keys
from .orders import Order, order_key
from .template import Request, script

AHEAD = 1.0
"""Seconds by which a slot may be ahead of the server's clock: the leader reckons that clock, and may be early a bit."""
LONGEST_NAME = 200
"""Characters of the name of a job, at most."""
LONGEST_ERROR = 500
"""Characters of an error that are kept."""
LONGEST_NUMBER = 24
"""Characters of a number in a reply, at most."""
MOST_CLAIMS = 50
"""Claims in one request, at most. A script blocks the server, for some 20 µs for each claim."""

Verdict = Literal["run", "rerun", "done", "waiting", "missed", "overlapped", "in-doubt", "unknown", "early"]
Overall = Literal["decided", "stale", "late", "forgotten"]
InDoubt = Literal["skip", "rerun"]
LastRun = Literal["over", "goes-on", "hung", "blocks"]
Outcome = Literal["ok", "failed", "failed-to-start"]
T = TypeVar("T")
_LAST_RUN: dict[LastRun, str] = {"over": "0", "goes-on": "1", "hung": "hung", "blocks": "blocks"}


class Claim(NamedTuple):
    """What a leader says of the slot that it claims. Instants are milliseconds of the server's clock."""

    name: str
    """Of the job: 1 to 200 characters."""
    slot: int
    before: int
    """The slot of the job before that one."""
    claim_id: str
    """Of ``new_claim_id``: each claim has its own, and keeps it when it is sent again."""
    grace: float
    """Seconds after the slot up to which its run may start."""
    in_doubt: InDoubt = "skip"
    last_run: LastRun = "over"
    """What this process knows of the last run of the job. ``hung``: it goes on, but blocks no other. ``blocks``: it is
    hung, too, and no other may start, because too many are."""
    own_last: int = 0
    """The last slot of the job that a claim of this very term has decided, or started again; 0 if there was none."""


class Decision(NamedTuple):
    """What became of a claim."""

    verdict: Verdict
    """See ``claim.lua``."""
    slot: int
    """The slot to run: of ``rerun`` not the one that was claimed."""
    attempt: int
    """How many starts of this slot there were, this one included."""
    last: int
    """The last slot of the job that is decided."""
    last_slot: int
    """The slot of the run before; 0 if there was none."""
    last_outcome: str
    """How that run has ended; ``none`` if there was none."""
    since: int = 0
    """If not 0, the slots after this one and before the one that was claimed were recorded as ``missed``.

    After a loss of data some of them may be ``unknown``.
    """


class Decisions(NamedTuple):
    """The answer to claims."""

    verdict: Overall
    """See ``claim.lua``."""
    at: float
    """Seconds on the server's clock when the claims were decided."""
    memory: str
    """Of the state, for the next claims."""
    each: tuple[Decision, ...]
    """In the order of the claims; empty unless the verdict is ``decided``."""


class End(NamedTuple):
    """How a run has ended."""

    token: int
    """Of the term that has started it."""
    name: str
    slot: int
    claim_id: str
    outcome: Outcome
    took: float
    """Seconds."""
    error: str = ""
    order: Order | None = None
    """That it has carried out. ``slot`` is then the instant at which that was given."""


class Taken(NamedTuple):
    """The answer to the leader that takes an order."""

    verdict: str
    """See ``take.lua``."""
    at: float
    """Seconds on the server's clock when that was decided."""
    given: int
    """When the order was given, in milliseconds on the server's clock."""


def new_claim_id() -> str:
    """Return an id that no other claim has. Local."""
    return uuid.uuid4().hex


class SlotRequests:
    """The requests of one term about slots. For one thread at a time.

    ``began``: seconds on the server's clock: ``Answer.began`` of the grant.
    """

    def __init__(self, keys: Keys, candidate_id: str, token: int, began: float) -> None:
        self._keys, self._state, self._names = keys, keys.state, slot_keys(keys)
        self._candidate_id, self._token = candidate_id, token
        self._began = math.ceil(began * 1000)

    def claim(self, claims: Sequence[Claim], not_after: float, memory: str) -> Request:
        """Claim 1 to 50 slots of different jobs. The answer is ``Decisions``.

        ``not_after``: seconds on the server's clock after which the claims are refused as too late. ``memory``: that
        of the last answer in this term, or "". Raise ``ValueError`` for a name that is too long or empty, an id with
        other characters than letters and digits, and a slot that is not later than the one before.
        """
        words = [self._candidate_id, self._token, math.floor(not_after * 1000), memory, self._began]
        for claim in claims:
            if not 0 < len(claim.name) <= LONGEST_NAME:
                raise ValueError(f"a job's name has {len(claim.name)} characters; give 1 to {LONGEST_NAME}")
            if not re.fullmatch(r"[0-9A-Za-z]{1,64}", claim.claim_id) or not 0 <= claim.before < claim.slot:
                raise ValueError(f"no claim: {claim}")
            words += (
                claim.name, claim.slot, claim.before, claim.claim_id, math.floor(claim.grace * 1000), claim.in_doubt,
                _LAST_RUN[claim.last_run], claim.own_last,
            )  # fmt: skip
        keys = self._state, *self._names
        return Request(script("claim", keys, tuple(words), lambda reply: decisions(reply, len(claims)), single=True))

    def finish(self, ends: Sequence[End]) -> Request:
        """Say how runs have ended. The answer is of each whether its record was still there."""
        words: list[str | int | bytes] = [self._candidate_id]
        keys = [*self._names]
        for end in ends:
            words += end.token, end.name, end.slot, end.claim_id, end.outcome, math.ceil(end.took * 1000)
            words.append(end.error.encode("utf-8", "replace")[:LONGEST_ERROR])
            if end.order:
                keys.append(order_key(self._keys, end.order.order_id))
            words += (len(keys), end.order.by) if end.order else (0, "")

        def parse(reply: bytes) -> Sequence[bool]:
            finished = [line == b"finished" for line in reply.split(b"\n")[1:]]
            return _counted(finished, len(ends))

        return Request(script("finish", tuple(keys), tuple(words), parse))

    def take(self, order: Order, last_run: Literal["over", "goes-on", "absent"], not_after: float) -> Request:
        """Take an order to run a job now. The answer is ``Taken``.

        ``last_run``: see ``Claim``; ``absent`` if there is no such job here. ``not_after``: as of ``claim``.
        """
        known = "absent" if last_run == "absent" else _LAST_RUN[last_run]
        words = self._candidate_id, self._token, math.floor(not_after * 1000), order.name, known
        keys = self._state, order_key(self._keys, order.order_id), self._names[1]
        return Request(script("take", keys, words, _taken, single=True))


def slot_keys(keys: Keys) -> tuple[str, str]:
    """Return the keys of an election's jobs: the hash with the record of each, and the stream of runs."""
    root = keys.wake.removesuffix("wake")
    return f"{root}slots", f"{root}runs"


def decisions(reply: bytes, count: int) -> Decisions:
    """Return the answer to ``count`` claims. Raise an exception of any kind for a reply that cannot be one. Local."""
    _, verdict, at, memory, *lines = reply.decode("utf-8", "replace").split("\n")
    if len(at) > LONGEST_NUMBER or verdict not in get_args(Overall):
        raise ValueError("no decisions")
    each = tuple(_counted([*map(_decision, lines)], count if verdict == "decided" else 0))
    return Decisions(cast(Overall, verdict), int(at) / 1000, memory, each)


def _taken(reply: bytes) -> Taken:
    _, verdict, at, given, _ = reply.decode("utf-8", "replace").split("\n", 4)
    if max(len(at), len(given)) > LONGEST_NUMBER:
        raise ValueError("a number is too long")
    return Taken(verdict, int(at) / 1000, int(given))


def _decision(line: str) -> Decision:
    verdict, slot, attempt, last, last_slot, outcome, since = line.split(" ")
    if max(map(len, (slot, attempt, last, last_slot, since))) > LONGEST_NUMBER or verdict not in get_args(Verdict):
        raise ValueError("no decision")
    return Decision(cast(Verdict, verdict), int(slot), int(attempt), int(last), int(last_slot), outcome, int(since))


def _counted(found: Sequence[T], count: int) -> Sequence[T]:
    if len(found) != count:
        raise ValueError(f"{len(found)} answers to {count}")
    return found
