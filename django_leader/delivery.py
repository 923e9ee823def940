"""Tells the application: the gain of a term, its loss, and a change of leader, each in a thread of its own.

NOT guaranteed here: that the application's work has stopped when the term is over. Work that must not outlive its
lease asks ``is_leader()``, or hands its fencing token to whoever can refuse it.

A term has one thread that does no I/O and watches its deadline, and one for each gain callback:

- The loss is announced within milliseconds of the deadline, even while the election thread hangs in a connect.
  The watcher looks at least twice a second, since a suspend stretches what a thread waits but not the lease.
- A gain callback may run for hours. It delays neither a heartbeat nor another callback nor the loss callbacks.
- All threads but the gain callbacks' exist when the term begins: at interpreter exit none can be started.
- When its term has ended, the watcher has nothing more to watch, and runs the loss callbacks itself, in order.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from . import clock

logger = logging.getLogger("django_leader")

LONGEST_LOOK = 0.5
"""Seconds between two looks at the deadline."""

Callback = Callable[[], Any]


class Listeners:
    """What the application wants to be told: functions of the token, of token and reason, of the two leaders.

    ``after_callback`` is called behind each of them, in the same thread.
    """

    def __init__(self, after_callback: Callback) -> None:
        self._after_callback = after_callback
        self.on_gain: list[Callable[[int], Any]] = []
        self.on_loss: list[Callable[[int, str], Any]] = []
        self.on_change: list[Callable[[str, str], Any]] = []

    def gained(self, token: int) -> list[Callback]:
        """What to run when the term ``token`` begins."""
        return [self._call(function, token) for function in self.on_gain]

    def lost(self, token: int, reason: str) -> list[Callback]:
        """What to run when it has ended."""
        return [self._call(function, token, reason) for function in self.on_loss]

    def changed(self, previous: str, current: str) -> list[Callback]:
        """What to run when another process leads."""
        return [self._call(function, previous, current) for function in self.on_change]

    def _call(self, function: Callable[..., Any], *args: Any) -> Callback:
        def call() -> None:
            try:
                function(*args)
            finally:
                self._after_callback()

        return call


class TermDelivery:
    """The gain and the loss of one term: strictly paired, each callback once.

    ``deadline`` gives the instant up to which the term lasts; after it ``expired`` is called until ``end`` was.
    ``loss`` gives the callbacks for the loss, for a reason. ``gain_failed`` is called when a gain callback raised,
    ``delivered`` when the loss callbacks have returned.
    """

    def __init__(
        self,
        name: str,
        *,
        gain: Sequence[Callback],
        loss: Callable[[str], Sequence[Callback]],
        deadline: Callable[[], float],
        expired: Callback,
        gain_failed: Callback,
        delivered: Callback,
    ) -> None:
        self._name, self._gain, self._loss = name, gain, loss
        self._deadline, self._expired = deadline, expired
        self._gain_failed, self._delivered = gain_failed, delivered
        self._changed = threading.Condition()
        self._reason: str | None = None
        self._announced = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name=f"{name} term", daemon=True)

    def start(self) -> None:
        """Starts the threads. Raises ``RuntimeError`` when none can be started; nothing is announced then."""
        self._watcher.start()
        try:
            for callback in self._gain:
                begun = threading.Event()
                threading.Thread(
                    target=self._run_gain, args=(callback, begun), name=f"{self._name} gain", daemon=True
                ).start()
                begun.wait()
        except RuntimeError:
            logger.exception("%s: no thread could be started for a gain callback", self._name)
            self._gain_failed()
        finally:
            self._announced.set()

    def end(self, reason: str) -> None:
        """The term is over: the loss callbacks may run. Local."""
        with self._changed:
            self._reason = self._reason or reason
            self._changed.notify()

    def runs_here(self) -> bool:
        """Whether the caller is a loss callback of this term."""
        return threading.current_thread() is self._watcher

    def _watch(self) -> None:
        while True:
            with self._changed:
                left = self._deadline() - clock.now()
                if self._reason is None and left > 0:
                    self._changed.wait(min(left, LONGEST_LOOK))
                if self._reason is not None:
                    break
            if self._deadline() <= clock.now():
                self._expired()
        self._announced.wait()
        for callback in self._loss(self._reason):
            run(callback, f"{self._name}: a loss callback")
        self._delivered()

    def _run_gain(self, callback: Callback, begun: threading.Event) -> None:
        begun.set()
        if not run(callback, f"{self._name}: a gain callback"):
            self._gain_failed()


def run(callback: Callback, what: str) -> bool:
    """Runs ``callback``; whatever it raises is logged. Gives whether it returned."""
    try:
        callback()
    except BaseException:
        logger.exception("%s raised", what)
        return False
    return True


class News:
    """Runs what is given to it in order, in a thread that lives only as long as there is something to run."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[Callback] = deque()
        self._busy = False

    def put(self, callbacks: Sequence[Callback]) -> None:
        """Runs ``callbacks`` after those given before. At interpreter exit no thread starts, so not at all. Local."""
        with self._lock:
            self._waiting.extend(callbacks)
            if self._busy or not self._waiting:
                return
            self._busy = True
        try:
            threading.Thread(target=self._work, name=f"{self._name} news", daemon=True).start()
        except RuntimeError:
            self._busy = False

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._busy = False
                    return
                callback = self._waiting.popleft()
            run(callback, f"{self._name}: a callback")
