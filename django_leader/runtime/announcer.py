"""The announcements of one candidacy to the application: its terms, one at a time, and a change of leader.

NOT guaranteed here: that a term can be announced. A candidate whose threads cannot be started does not campaign, so
that another process leads. It calls ``ready`` again at its next turn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from django_leader.system.log import log
from django_leader.system.starts import at_the_end

from .callbacks import SerialExecutor, TermDelivery
from .listeners import Callback, Listeners


class Announcer:
    """The announcements of one candidacy. ``deadline`` and what follows it: see ``TermDelivery``.

    The election thread calls ``ready``. The rest, except ``abandon`` and ``tell``, is called under the lock of the
    candidacy. It logs nothing, because a log handler may block, and the end of the term waits for that lock.
    """

    def __init__(
        self,
        label: str,
        listeners: Listeners,
        *,
        deadline: Callable[[int], float],
        expired: Callback,
        gain_failed: Callable[[int], Any],
        delivered: Callable[[int], Any],
    ) -> None:
        calls: dict[str, Any] = {"deadline": deadline, "expired": expired, "delivered": delivered}
        self._new = partial(TermDelivery, label, listeners, gain_failed=gain_failed, **calls)
        self._label, self._listeners, self._news = label, listeners, SerialExecutor(label)
        self._next: TermDelivery | None = None
        self._refused = False
        self.current: TermDelivery | None = None
        """The delivery of the last term that was announced."""

    def ready(self) -> bool:
        """Return whether the threads of the next term run, and wait for it. Start them if not. Local."""
        if self._next is None:
            try:
                self._next = self._started()
            except (RuntimeError, MemoryError) as error:
                if not self._refused and not at_the_end(error):
                    text = "%s: cannot lead for now: %s. This process does not campaign until it can start threads. "
                    text += "Check the process limits of the container (pids) and of the user (ulimit -u)"
                    log(logging.WARNING, text, self._label, error)
                self._refused = True
                return False
            self._refused = False
        return True

    def _started(self) -> TermDelivery:
        delivery = self._new()
        delivery.start_threads()
        return delivery

    def begin(self, token: int) -> None:
        """Announce the term ``token``. Local. If it raises, some callbacks are not called."""
        self.current, self._next = self._next or self._started(), None
        try:
            self.current.begin(token)
        except BaseException:
            if self.current.token is None:  # its threads wait for a term that will not come
                self.current.cancel()
            raise

    def end(self, token: int, reason: str) -> bool:
        """Announce the end of the term ``token``. Return whether there is no loss callback to wait for. Local."""
        return self.current is None or self.current.token != token or self.current.end(reason)

    def changed(self, previous: str, current: str) -> None:
        """Announce that another process leads, at the next ``tell``. Local."""
        self._news.put(self._listeners.changed(previous, current))

    def tell(self) -> None:
        """Call the callbacks that ``changed`` has queued. Local, but may log: hold no lock."""
        self._news.go()

    def close(self) -> None:
        """Let the threads of the next term end, because there will be none. Local."""
        if self._next:
            self._next.cancel()

    def abandon(self) -> None:
        """In a forked child: announce nothing. Local, takes no lock."""
        if self.current:
            self.current.abandon()
