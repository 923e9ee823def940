"""Many candidates of ours in one event loop, none of them a thread: ``python -m benchmarks.light ADDRESS COUNT``.

Each has a connection of its own and drives the ``Session`` that the election thread drives. So it sends what any
candidate of ours sends, at the same instants, the errands included. What is left out sends nothing: the threads, the
application's callbacks, the log, and the watch over a leader's process. A connection is made again only where a wait
was cut short: a server that closes one, or that does not know a script, ends the measurement. The lines that it reads
and writes are those of ``benchmarks.candidate``; it writes ``gained`` when the grant is known.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import resource
import secrets
import selectors
import socket
import sys
import time
from collections.abc import Callable, Generator
from typing import Any
from urllib.parse import urlsplit

import redis

from benchmarks.peers import RETRY, ours
from benchmarks.processes import say
from benchmarks.servers import Trouble
from django_leader.protocol import machine
from django_leader.protocol.records import utc_now
from django_leader.protocol.requests import SERVER_TIMER, lasting
from django_leader.protocol.scripts import FLAGS, WITH_FLAGS, script
from django_leader.protocol.session import Leave, Send, Session, Wait
from django_leader.protocol.template import Request
from django_leader.runtime.hooks import Hooks
from django_leader.system import clock
from django_leader.system.pidfd import clocks

NOTHING: list[bytes] = []
"""The reply to a wait that has ended without an element."""
SCRIPTS = (*WITH_FLAGS, "post", "collect")

Life = Generator[float, Any, Any]
"""Yields the instant up to which it waits, and is sent a reply, or None when the time is over or there is news."""

_request_ids = itertools.count(10**11)


def parse(data: bytes, start: int = 0) -> tuple[Any, int] | None:
    """Return the reply of RESP that begins at ``start``, and where it ends; None while it is not complete.

    Raises ``Trouble`` for an error.
    """
    end = data.find(b"\r\n", start)
    if end < 0:
        return None
    kind, head, end = data[start : start + 1], data[start + 1 : end], end + 2
    if kind == b"-":
        raise Trouble(head.decode())
    if kind == b"$" and int(head) >= 0:
        stop = end + int(head)
        return (data[end:stop], stop + 2) if len(data) >= stop + 2 else None
    if kind == b"*" and int(head) >= 0:
        items = []
        for _ in range(int(head)):
            if (item := parse(data, end)) is None:
                return None
            items.append(item[0])
            end = item[1]
        return items, end
    return (NOTHING if kind in b"$*" else head), end


class Loop:
    """Waits for everybody at once: for what can be read, and for the time."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def watch(self, file: Any, readable: Callable[[], None]) -> None:
        """Call ``readable`` whenever ``file`` is."""
        self._selector.register(file, selectors.EVENT_READ, readable)

    def forget(self, file: Any) -> None:
        """Watches ``file`` no longer."""
        self._selector.unregister(file)

    def at(self, instant: float, call: Callable[[], None]) -> None:
        """Call ``call`` then, by the boot clock."""
        heapq.heappush(self._timers, (instant, next(self._order), call))

    def run(self) -> None:
        """For ever."""
        while True:
            timeout = max(0.0, self._timers[0][0] - clock.now()) if self._timers else None
            for key, _ in self._selector.select(timeout):
                key.data()
            while self._timers and self._timers[0][0] <= clock.now():
                heapq.heappop(self._timers)[2]()


class Light:
    """One candidate: the I/O of a session, and what the session shares. Its thread is a generator."""

    def __init__(self, loop: Loop, address: str, index: int, flags: str) -> None:
        self._loop, self._index, self._flags = loop, index, flags
        place = urlsplit(address)
        self._place = (place.hostname, place.port)
        self._config = ours.config(takeover=False).validate()
        self._timing = self._config.timing
        self.state = machine.State()
        self._sock: socket.socket | None = None
        self._data = b""
        self._wait_reply_due: float | None = None
        """As that of ``Channel``."""
        self._asks = False
        """Whether the reply to a request, other than a wait, has not come."""
        self._due = 0.0

    def start(self) -> None:
        """Become a candidate."""
        self.state = machine.inherited(self.state)
        self._session = Session(
            self,
            f"{self._config.instance_id}:{secrets.token_hex(8)}",
            self._config,
            os.getpid(),
            Hooks(),
            random=random.random,
            wall=utc_now,
            clocks=clocks,
            follow=lambda answer, asked_at: None,
        )
        self._life = self._live()
        self._go_on(None)

    def stop(self) -> None:
        """Give the leadership back and end the candidacy. Only a leader is asked to."""
        self._stopped_at = time.monotonic()
        self.apply(machine.Stop())
        if not self._asks:
            self._go_on(None)

    def apply(self, event: machine.AnyEvent) -> None:
        """Feed an event to the machine. The callbacks, of which there are none, return at once."""
        before, self.state = self.state, machine.step(self.state, event, clock.now(), self._timing)
        if self.state.term and not before.term:
            say(gained=self._index, at=time.monotonic())
        if self.state.ended and not self.state.ended.delivered:
            self.apply(machine.Delivered(self.state.ended.term.token))

    def _go_on(self, reply: Any) -> None:
        try:
            until = self._due = self._life.send(reply)
        except StopIteration:
            self._close()
            say(stopped=self._index, at=self._stopped_at)
            return
        self._loop.at(until, lambda: self._go_on(None) if self._due == until else None)

    def _live(self) -> Life:
        while True:
            if self.state.phase != "following":  # what it waits for may have run out
                self.apply(machine.Tick())
            # A request behind a wait whose reply is due leaves on a new connection.
            match self._session.next(clock.now(), None if self._wait_reply_due is not None else self._sock):
                case Send() as todo:
                    yield from self._send(todo)
                case Wait(at_redis=Request() as request) as todo:
                    element = yield from self._wait(request, todo)
                    self._session.reply(request, element, clock.now(), self._sock)
                case Wait(until=until):
                    yield until
                case Leave():
                    return

    def _send(self, todo: Send) -> Life:
        """Send as ``Runner`` and ``Channel.call`` do, and tell the session what came back."""
        if self._wait_reply_due is not None:
            self._close()
        template, request_id = todo.request.template, b"%d" % next(_request_ids)
        program = ("EVALSHA", script(template.name, self._flags).sha) if template.is_script else ()
        wait = lasting(todo.wait, todo.until - clock.now()) if todo.wait else b""
        self._write(todo.request.packed(*program, request_id=request_id) + wait)
        self._wait_reply_due, self._asks = todo.until if todo.wait else None, True
        if template.pause:
            self._loop.forget(self._sock)
            yield clock.now() + template.pause
            self._loop.watch(self._sock, self._readable)
        reply = yield clock.now() + self._timing.operation
        self._asks = False
        if reply is None:
            self._close()
            self._session.failed(todo.request)
            return
        first = reply[0] if isinstance(reply, list) else reply
        if template.is_script and not first.startswith(request_id):
            raise Trouble("a reply to another request")
        self._session.reply(todo.request, reply, clock.now(), self._sock)

    def _wait(self, request: Request, todo: Wait) -> Life:
        """Wait at Redis as ``Channel.wait`` does. Return the element, or None."""
        patience = todo.until if todo.exact else todo.until + 2 * SERVER_TIMER
        if self._wait_reply_due is None:
            seconds = todo.until - clock.now() - (SERVER_TIMER if todo.exact else 0.0)
            if seconds < SERVER_TIMER / 2:
                yield todo.until
                return None
            self._write(lasting(request, seconds))
            self._wait_reply_due = todo.until
        elif todo.until >= self._wait_reply_due:
            patience = todo.until + 2 * SERVER_TIMER
        element = yield patience
        if element is None:
            self._close()  # the reply to the wait is still due
            return None
        due, self._wait_reply_due = self._wait_reply_due, None
        if element is not NOTHING:
            return element
        if due >= todo.until > clock.now():
            yield todo.until
        return None

    def _write(self, packed: bytes) -> None:
        if self._sock is None:
            self._sock = socket.create_connection(self._place)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._loop.watch(self._sock, self._readable)
        self._sock.sendall(packed)

    def _readable(self) -> None:
        assert self._sock
        if not (data := self._sock.recv(65536)):
            raise Trouble("the server has closed a connection")
        self._data += data
        while found := parse(self._data):
            self._data = self._data[found[1] :]
            self._go_on(found[0])

    def _close(self) -> None:
        if self._sock:
            self._loop.forget(self._sock)
            self._sock.close()
        self._sock, self._data, self._wait_reply_due = None, b"", None


def main(address: str, count: int) -> None:
    """Until there are no more lines."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with redis.Redis.from_url(address) as client:
        try:
            flags = FLAGS
            client.script_load(script(SCRIPTS[0], flags).source)
        except redis.ResponseError:  # before Redis 7
            flags = ""
        for name in SCRIPTS:
            client.script_load(script(name, flags).source)
    loop = Loop()
    lights = [Light(loop, address, index, flags) for index in range(count)]

    def rest(first: int) -> None:
        last = now = clock.now()
        for number, light in enumerate(lights[first:]):
            last = now + number * RETRY / count
            loop.at(last, light.start)
        loop.at(last, lambda: say(started=count - first))

    def usage(_: int) -> None:
        say(cpu=time.process_time(), switches=resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw)

    words: dict[str, Callable[[int], None]] = {
        "start": lambda index: lights[index].start(),
        "stop": lambda index: lights[index].stop(),
        "rest": rest,
        "usage": usage,
    }

    def told() -> None:
        lines = os.read(0, 65536)
        if not lines:
            os._exit(0)  # without a release: the server ends, too
        for line in lines.decode().splitlines():
            word, _, number = line.partition(" ")
            words[word](int(number))

    loop.watch(sys.stdin, told)
    say(ready=count)
    loop.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
