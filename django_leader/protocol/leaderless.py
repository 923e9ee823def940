"""The claim of a slot without a leader: the process that asks first starts the run. No I/O.

NOT guaranteed here:

- That a slot is started at most once, if Redis loses data. Nobody has a memory of what was started, as a leader has. If
  all data are lost, the slot that is due is ``unknown``, and is not run. If Redis comes back with older data, the slots
  that were decided since are started once more when they are called for. So they are after a failover to a replica that
  did not have them; ``MIN_REPLICAS`` helps against that.
- That a run that has no end has ended. Nobody knows whether its process still lives. It is recorded as ``in-doubt``
  when the next slot is claimed, and never started again. So is a claim whose answer is lost, unless its process calls
  again: with ``max_run`` it blocks the others for so long, although nothing was started for it.
- That runs in different processes do not overlap, unless the job has a ``max_run``: then a run without an end blocks
  the next for so long.
- That a slot is run: nobody may call for it.

As long as the data last, a slot is started at most once, whatever the clocks of the hosts, pauses and lost replies do.
The claim is one step in Redis, and the last slot that was decided only grows there. Only the server's clock counts.
"""

from __future__ import annotations

import math

from .config import Keys
from .slots import Claim, decisions, slot_keys
from .template import Request, script


def once(keys: Keys, process: str, claim: Claim, not_after: float, max_run: float) -> Request:
    """Claim a slot. The answer is ``Decisions``, of one claim; see ``once.lua``.

    ``process``: the id of this process. ``not_after``: seconds on the server's clock after which the claim is refused
    as too late. ``max_run``: seconds; infinity if a run in another process blocks none. A run that goes on in this
    process blocks only by ``max_run``, too: the caller does not claim beside it.
    """
    longest = 0 if math.isinf(max_run) else math.ceil(max_run * 1000)
    who = process, math.floor(not_after * 1000), claim.name, claim.slot, claim.before, claim.claim_id
    words = *who, math.floor(claim.grace * 1000), longest
    return Request(script("once", slot_keys(keys), words, lambda reply: decisions(reply, 1), single=True))
