"""The Django signals of an election. Their sender is ``LeaderElection``; all carry ``using``, the election's alias.

They are sent in threads of the election, never in the thread of a request. They are sent to every receiver, whatever
another receiver raises: also ``SystemExit`` ends only the receiver that raises it. A receiver should return soon,
because the next one waits for it, and ``lost_leadership`` waits for all receivers of ``became_leader``. For long work
start a thread, or use ``election.on_become_leader``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from django.dispatch import Signal

from .system.log import Logged, log

if TYPE_CHECKING:
    from .runtime.election import LeaderElection

Failed = tuple[Any, BaseException]
"""A receiver, and what it has raised."""


class ElectionSignal(Signal):
    """A signal that calls every receiver. ``send_robust`` would stop at what is no ``Exception``."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def tell(
        self, sender: Any, run_coroutine: Callable[[Coroutine[Any, Any, None]], Any], **named: Any
    ) -> list[Failed]:
        """Call each receiver in the calling thread. Return those that raised. Never raises.

        Coroutine functions are called after the others, all at a time, in one event loop.
        """
        failed: list[Failed] = []
        functions, coroutine_functions = self._live_receivers(sender)

        async def call(receiver: Any) -> None:
            try:
                await receiver(signal=self, sender=sender, **named)
            except BaseException as error:
                failed.append((receiver, error))

        async def call_all() -> None:
            await asyncio.gather(*map(call, coroutine_functions))

        for receiver in functions:
            try:
                receiver(signal=self, sender=sender, **named)
            except BaseException as error:
                failed.append((receiver, error))
        if coroutine_functions:
            try:
                run_coroutine(call_all())
            except BaseException as error:
                failed.append((coroutine_functions, error))
        return failed


became_leader = ElectionSignal("became_leader")
"""This process leads. Carries ``using``, ``election`` and ``fencing_token`` (an ``int``).

It is sent once in each term, at its beginning, in a thread of the term. The term may have ended when a receiver runs,
so a receiver that must know asks ``election.is_leader()``. When a receiver raises, the others are called, and the term
ends. So it does under gevent and eventlet if a receiver is a coroutine function, which is refused there.
"""

lost_leadership = ElectionSignal("lost_leadership")
"""This process leads no longer. Carries ``using``, ``election``, ``fencing_token`` and ``reason``.

Reasons: ``resigned`` (stopped or gave up), ``expired`` (no heartbeat was answered in time), ``taken`` (another process
leads), ``quarantined`` (Redis has lost data, and a later leader may be there), ``data-lost`` (Redis says that the term
is over), ``callback-failed`` (a receiver or callback of the gain raised).
"""

leader_changed = ElectionSignal("leader_changed")
"""Another process leads, or this one. Carries ``using``, ``election``, and two instance ids: ``previous``, ``current``.

A follower learns of it within its retry interval, or within four of them where there are more than 32 candidates.
``previous`` is empty for the first leader that is seen.
"""


def send_signals(election: LeaderElection, run_coroutine: Callable[[Coroutine[Any, Any, None]], Any]) -> None:
    """Have ``election`` send the signals, those of gain and loss in pairs. Local.

    The receivers of a gain run one after the other, and the loss waits for the last of them: no receiver is called for
    the loss before the gain. ``run_coroutine`` runs receivers that are coroutine functions.
    """
    send = {"using": election.name, "election": election}

    def tell(signal: ElectionSignal, **named: Any) -> list[Failed]:
        failed = signal.tell(type(election), run_coroutine, **send, **named)
        for receiver, error in failed:
            text = "%s: the receiver %r of %s raised an exception"
            log(logging.ERROR, text, election.label, receiver, signal.name, exc_info=error)
        return failed

    def gained(token: int) -> None:
        if tell(became_leader, fencing_token=token):
            raise Logged  # so that the term ends

    def lost(token: int, reason: str) -> None:
        tell(lost_leadership, fencing_token=token, reason=reason)

    def changed(previous: str, current: str) -> None:
        tell(leader_changed, previous=previous, current=current)

    election.listen(gained, lost, changed, "a receiver of became_leader")
