"""Threads that take turns at each step, in an order that is chosen: so that every order can be tried."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence


class Turns:
    """Runs functions, each in a thread, one step at a time. They call ``step`` before each thing that others see."""

    def __init__(self) -> None:
        self._here = threading.local()
        self._back = locked()

    def step(self) -> None:
        """Waits for the caller's next turn. Nothing outside of ``run``."""
        turn = getattr(self._here, "turn", None)
        if turn:
            self._back.release()
            turn.lock.acquire()

    def run(self, functions: Sequence[Callable[[], None]], order: Sequence[int]) -> list[tuple[int, int]]:
        """Runs them, by ``order`` and then one after the other. Gives what was chosen, each time, of how many."""
        running = [self._start(function) for function in functions]
        chosen: list[tuple[int, int]] = []
        while running:
            choice = order[len(chosen)] % len(running) if len(chosen) < len(order) else 0
            chosen.append((choice, len(running)))
            thread, turn = running[choice]
            turn.lock.release()
            self._back.acquire()
            if not turn.ended:
                continue
            thread.join()
            del running[choice]
            if turn.error:
                raise turn.error
        return chosen

    def _start(self, function: Callable[[], None]) -> tuple[threading.Thread, _Turn]:
        turn = _Turn()

        def work() -> None:
            self._here.turn = turn
            turn.lock.acquire()
            try:
                function()
            except BaseException as error:
                turn.error = error
            turn.ended = True
            self._back.release()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread, turn


class _Turn:
    def __init__(self) -> None:
        self.lock = locked()
        self.ended = False
        self.error: BaseException | None = None


def locked() -> threading.Lock:
    """A lock that is taken: whoever takes it again waits until another thread gives it back."""
    lock = threading.Lock()
    lock.acquire()
    return lock


def every_order(run: Callable[[Sequence[int]], list[tuple[int, int]]]) -> Iterator[None]:
    """Calls ``run`` once with each order that there is. Yields after each call."""
    order: list[int] | None = []
    while order is not None:
        chosen = run(order)
        yield
        order = None
        for index in reversed(range(len(chosen))):
            choice, choices = chosen[index]
            if choice + 1 < choices:
                order = [*(choice for choice, _ in chosen[:index]), choice + 1]
                break
