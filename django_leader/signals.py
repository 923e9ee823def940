"""The Django signals of an election. Their sender is ``LeaderElection``; all carry ``using``, the election's alias.

They are sent in threads of the election, never in a request's, and to every receiver even if another one raises.
A receiver should return soon, since the next one waits for it, and ``lost_leadership`` for all of ``became_leader``;
for long work start a thread, or use ``election.on_become_leader``.
"""

from __future__ import annotations

from django.dispatch import Signal

became_leader = Signal()
"""This process leads now. Carries ``election`` and ``fencing_token``. When a receiver raises, the term ends."""

lost_leadership = Signal()
"""This process leads no longer. Carries ``election``, ``fencing_token`` and ``reason``.

Reasons: ``resigned`` (stopped or gave up), ``expired`` (no heartbeat was answered in time), ``taken`` (another process
leads), ``quarantined`` (Redis has lost data, and a later leader may be there), ``data-lost`` (Redis says that the term
is over), ``callback-failed`` (a receiver or callback of the gain raised).
"""

leader_changed = Signal()
"""Another process leads, or this one. Carries ``election``, ``previous`` and ``current``, two instance ids.

A follower learns of it within its retry interval, or within four of them where there are more than 32 candidates.
``previous`` is empty for the first leader that is seen.
"""
