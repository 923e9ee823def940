"""How any process has the leader run a job now, and waits for the outcome.

NOT guaranteed here: that the outcome is known when the wait is over. The answer then says what is known.

The leader sees an order when it sends its next heartbeat. If it has not taken the order within a lease
(``config.timing.ttl``), or if another process leads by then, the order is withdrawn: nobody begins it any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.orders import KEPT, Look, Order
from django_leader.protocol.slots import new_claim_id
from django_leader.system import clock

from .queries import Questions

TRIES = 3
"""How often an order is given, if another process has come to lead at that very moment."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two questions for the outcome."""
LONGEST_TIMEOUT = KEPT / 2
"""Seconds of one wait for the outcome, at most. It is kept for a day."""
OPEN = {"": "unknown", "waiting": "unknown", "taken": "running"}
"""What is said of an order that has no outcome, by its state in Redis."""


class Carried(NamedTuple):
    """What has become of an order to run a job."""

    order: Order
    outcome: str
    """``ok``, ``failed`` and ``failed-to-start``, as of any run; ``overlapped``: the last run goes on; ``absent``: the
    leader has no such job; ``withdrawn``: the leader has not taken the order, and will not; ``nobody-leads``;
    ``running``: the leader has taken it, and has told no end; ``unknown``: Redis does not know the order."""
    look: Look
    """When it was looked at last, and what was there."""


def run_now(
    election: Questions, name: str, by: str, timeout: float, sleep: Callable[[float], object] = time.sleep
) -> Carried:
    """Have the leader run the job ``name``. Return what has become of that after ``timeout`` seconds, at the latest.

    Three round trips or more, each on a new connection. Raise ``RedisUnavailable`` if Redis cannot be asked: at the
    beginning, or at the end of the timeout. In the second case the job may have been started.
    """
    order, until = Order(new_claim_id(), name, by), clock.now() + timeout
    for _ in range(TRIES):
        seen = election.look(order.order_id)
        if not seen.holder:
            return Carried(order, "nobody-leads", seen)
        try:
            verdict = election.give(order, seen, seen.at + election.config.timing.ttl)
        except RedisUnavailable:
            break  # it may have been given
        if verdict == "given":
            break
    else:
        return Carried(order, "nobody-leads", seen)
    return _wait(election, order, seen, until, sleep)


def _wait(election: Questions, order: Order, given: Look, until: float, sleep: Callable[[float], object]) -> Carried:
    withdraw_at, pause = min(until, clock.now() + election.config.timing.ttl), SHORTEST_PAUSE
    while True:
        over = clock.now() >= until
        try:
            seen = election.look(order.order_id, withdraw=clock.now() >= withdraw_at)
        except RedisUnavailable:
            if over:
                raise
        else:
            if seen.state not in OPEN or over:
                return Carried(order, OPEN.get(seen.state, seen.state), seen)
            if seen.state == "waiting" and (seen.holder, seen.token) != (given.holder, given.token):
                withdraw_at = clock.now()  # the term is over, and no other may take it
        sleep(min(pause, max(until - clock.now(), 0.0)))
        pause = min(2 * pause, LONGEST_PAUSE)
