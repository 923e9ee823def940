"""A TCP proxy in front of the server, one for each candidate, that does what networks do.

All of it runs in one thread with a loop of its own. What a proxy is told from another thread has happened when the
call returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

BACKLOG = 64
HARMS = ("idle", "idle, reset", "request lost", "reply lost")
"""How the connections of ``Proxy.close_lines`` end, if those that are new are spared."""
IDLE = 0.02
"""Seconds without a byte after which a connection is idle."""
RESET = struct.pack("ii", 1, 0)
"""Of the option SO_LINGER: to close is to reset."""


def quiet_port() -> int:
    """A free port of those that the kernel does not hand out by itself, so that it can be closed and opened again."""
    while True:
        port = random.SystemRandom().randrange(12000, 30000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port


class Direction:
    """What becomes of the bytes of one direction."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.lost = False
        self.delay = (0.0, 0.0)
        self.wanted = b""
        """The next piece with this is kept until ``late`` is set, and so is what follows on its connection."""
        self.late = asyncio.Event()

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Callable[[], bool] = lambda: True
    ) -> None:
        """Carries bytes until their end. What was held is delivered, even if the sender has gone meanwhile.

        ``passes`` is asked about each piece. If it says no, this is the end.

        What nobody receives any more is read all the same: to close over unread bytes would take back sent ones.
        """
        gone = False
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self.open.wait()
                if not passes():
                    break
                if self.wanted and self.wanted in data:
                    self.wanted = b""
                    await self.late.wait()
                if self.delay[1]:
                    await asyncio.sleep(random.uniform(*self.delay))
                if not self.lost and not gone:
                    try:
                        writer.write(data)
                        await writer.drain()
                    except OSError:
                        gone = True
        with contextlib.suppress(OSError):
            await self.open.wait()
            writer.write_eof()


class Line:
    """One connection through a proxy. ``harm``: how connections end at the moment, see ``Proxy.close_lines``."""

    def __init__(self, harm: Callable[[], str], near: socket.socket) -> None:
        self._harm, self._near = harm, near
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._answered = self._idle = self._was_idle = False

    def asks(self) -> bool:
        """Whether a piece of a request passes."""
        self._was_idle, self._idle = self._idle, False
        self._rest()
        return self._harm() != "fresh" and not (self._was_idle and self._harm() == "request lost")

    def answers(self) -> bool:
        """Whether a piece of a reply passes."""
        if (self._was_idle or self._idle) and self._harm() == "reply lost":
            return False
        self._answered, self._idle = True, False
        self._rest()
        return True

    def begin(self) -> None:
        """A harm begins. Whoever has had a reply counts as idle."""
        self._idle = self._answered
        self._rest()

    def end(self) -> None:
        """The connection has ended."""
        if self._timer:
            self._timer.cancel()

    def _rest(self) -> None:
        self.end()
        if self._answered and self._harm():
            self._timer = asyncio.get_running_loop().call_later(IDLE, self._rests)

    def _rests(self) -> None:
        self._idle = True
        if self._harm() == "idle, reset":
            self._near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if self._harm().startswith("idle"):
            assert self._task
            self._task.cancel()


class Network:
    """The thread in which the proxies run."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Does ``work`` in the thread, and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def close(self) -> None:
        """Ends the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Proxy:
    """One way to the server at ``target``. All is well until it is told otherwise, and again after ``heal``."""

    def __init__(self, network: Network, target: Callable[[], int]) -> None:
        self._network, self._target = network, target
        self.port = quiet_port()
        self._fillers: list[socket.socket] = []
        self._connections: set[asyncio.Task[None]] = set()
        self.lines: set[Line] = set()
        self._harm = ""
        network.run(self._begin())

    async def _begin(self) -> None:
        self.requests, self.replies = Direction(), Direction()
        self._listen()

    def _listen(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)
        self._acceptor = self._network.loop.create_task(self._accept())

    async def _accept(self) -> None:
        while True:
            sock, _ = await self._network.loop.sock_accept(self._listener)
            task = self._network.loop.create_task(self._serve(sock))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, sock: socket.socket) -> None:
        near_reader, near = await asyncio.open_connection(sock=sock)
        far: asyncio.StreamWriter | None = None
        line = Line(lambda: self._harm, sock)
        self.lines.add(line)
        try:
            with contextlib.suppress(OSError):
                far_reader, far = await asyncio.open_connection("127.0.0.1", self._target())
                there = self.requests.carry(near_reader, far, line.asks)
                await _both(there, self.replies.carry(far_reader, near, line.answers))
        finally:
            self.lines.discard(line)
            line.end()
            for writer in (near, far):
                if writer:
                    writer.transport.abort()

    async def _cut(self) -> None:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _deaf(self) -> None:
        self._acceptor.cancel()
        await asyncio.gather(self._acceptor, return_exceptions=True)

    def cut(self) -> None:
        """Closes all connections. New ones can be made."""
        self._network.run(self._cut())

    def close_lines(self, harm: str) -> None:
        """From now on, until ``heal``, a connection ends by itself. New ones can be made.

        ``harm`` says when: "idle" or "idle, reset", as soon as it is idle; "request lost", by the next request after it
        was idle, which does not arrive; "reply lost", by the reply to that. Idle is a connection that has had a reply
        and then, for a while, nothing. "fresh": by its first request.
        """

        async def close_lines() -> None:
            self._harm = harm
            for line in self.lines:
                line.begin()

        self._network.run(close_lines())

    def hold(self, *, requests: bool, replies: bool) -> None:
        """Keeps bytes here, to deliver them later."""

        async def hold() -> None:
            for direction, held in ((self.requests, requests), (self.replies, replies)):
                if held:
                    direction.open.clear()

        self._network.run(hold())

    def hold_one(self, text: bytes) -> None:
        """Keeps the next request with ``text`` here, to deliver it when all is well again. Others pass."""

        async def hold_one() -> None:
            self.requests.wanted, self.requests.late = text, asyncio.Event()

        self._network.run(hold_one())

    @property
    def holds_one(self) -> bool:
        """Whether it has that request."""
        return not self.requests.wanted

    def lose_replies(self) -> None:
        """Requests arrive, and their replies are lost."""

        async def lose() -> None:
            self.replies.lost = True

        self._network.run(lose())

    def slow(self, there: tuple[float, float], back: tuple[float, float]) -> None:
        """Delays every piece by a random time, in seconds, for each direction."""

        async def slow() -> None:
            self.requests.delay, self.replies.delay = there, back

        self._network.run(slow())

    def refuse(self) -> None:
        """Nobody listens here: the connections are cut, and new ones are refused."""

        async def refuse() -> None:
            await self._deaf()
            self._listener.close()
            await self._cut()

        self._network.run(refuse())

    def hang(self, *, accept: bool) -> None:
        """The connections are cut, and new ones hang: in their first read, or else already in connect()."""

        async def hang() -> None:
            if accept:
                self.requests.open.clear()
                self.replies.open.clear()
            else:
                await self._deaf()
                self._listener.listen(0)
                for _ in range(4):  # the queue of the kernel is full with these: whoever comes next gets no answer
                    filler = socket.socket()
                    filler.setblocking(False)
                    filler.connect_ex(("127.0.0.1", self.port))
                    self._fillers.append(filler)
            await self._cut()

        self._network.run(hang())

    def heal(self) -> None:
        """All is well again, and what was held is delivered. Connections that lost a reply are closed."""
        self._network.run(self._heal())

    async def _heal(self) -> None:
        self._harm = ""
        if self.replies.lost:
            await self._cut()
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        for direction in (self.requests, self.replies):
            direction.lost, direction.delay = False, (0.0, 0.0)
            direction.open.set()
            direction.wanted = b""
            direction.late.set()
        if self._acceptor.done():
            self._listener.close()
            self._listen()

    def close(self) -> None:
        """Ends it."""

        async def close() -> None:
            await self._deaf()
            await self._cut()
            self._listener.close()

        self._network.run(close())


async def _both(*ways: Awaitable[None]) -> None:
    await asyncio.gather(*ways)
