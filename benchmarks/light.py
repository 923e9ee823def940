"""Many candidates of ours in one event loop, none of them a thread: ``python -m benchmarks.light ADDRESS COUNT``.

Each has a connection of its own and sends what any candidate of ours sends, at the same instants: ``machine`` decides,
``requests`` packs the requests, and their order is that of ``worker``. The parts that are left out send nothing: the
threads, the application's callbacks, and the watch over a leader's process. The lines that it reads and writes are
those of ``benchmarks.candidate``; it writes ``gained`` when the grant is known.
"""

from __future__ import annotations

import contextlib
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
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import redis

from benchmarks.peers import RETRY, ours
from benchmarks.processes import say
from benchmarks.servers import Trouble
from django_leader.protocol import machine, pace, requests
from django_leader.protocol.config import inbox
from django_leader.protocol.machine import Campaigned, Delivered, Failed, Released, Renewed, Stop, Woken
from django_leader.protocol.records import LeaderInfo, Preconditions, utc_now
from django_leader.protocol.scripts import FLAGS, script
from django_leader.redis.channel import SERVER_TIMER, blpop_seconds
from django_leader.redis.lease import YIELD
from django_leader.runtime.worker import QUEUE, SECOND_CHANCE, over_before
from django_leader.system import clock

NOTHING: list[bytes] = []
"""The reply to a wait that has ended without an element."""
SCRIPTS = ("campaign", "poll", "renew", "release")


class NoReplyError(Exception):
    """The server has not answered in time. What any candidate does then is told by the machine."""


Life = Generator[float, Any, None]
"""Yields the instant up to which it waits, and is sent a reply, or None when the time is over or there is news."""

_requests = itertools.count(10**11)
_encoder = redis.connection.Connection()  # type: ignore[no-untyped-call]  # never connected


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
    """One candidate. Its thread is a generator."""

    def __init__(self, loop: Loop, address: str, index: int) -> None:
        self._loop, self._index = loop, index
        place = urlsplit(address)
        self._place = (place.hostname, place.port)
        self._config = ours.config(takeover=False).validate()
        self._keys, self._timing = self._config.keys, self._config.timing
        self._state = machine.State()
        self._sock: socket.socket | None = None
        self._data = b""
        self._wait_reply_due: float | None = None
        self._asks = False
        self._requests: dict[str, tuple[Any, requests.Packed]] = {}
        self._due = 0.0

    def start(self) -> None:
        """Become a candidate."""
        self._candidate_id = f"{self._config.instance_id}:{secrets.token_hex(8)}"
        self._state = machine.State(highest_token=self._state.highest_token, watch=self._state.watch)
        self._info = LeaderInfo(self._config.instance_id, self._config.hostname, utc_now(), pid=os.getpid())
        self._candidates = 0
        keys = [inbox(self._keys, self._candidate_id), self._keys.wake]
        self._waits = [requests.packed_wait(_pack, keys[:1]), requests.packed_wait(_pack, keys)]
        self._life = self._live()
        self._go_on(None)

    def stop(self) -> None:
        """Give the leadership back and end the candidacy. Only a leader is asked to."""
        self._stopped_at = time.monotonic()
        assert self._state.term
        self._apply(Stop())
        self._apply(Delivered(self._state.ended.term.token if self._state.ended else 0))
        if not self._asks:
            self._go_on(None)

    def _go_on(self, reply: Any) -> None:
        try:
            until = self._due = self._life.send(reply)
        except StopIteration:
            self._close()
            say(stopped=self._index, at=self._stopped_at)
            return
        self._loop.at(until, lambda: self._go_on(None) if self._due == until else None)

    def _apply(self, event: machine.AnyEvent) -> None:
        before, self._state = self._state, machine.step(self._state, event, clock.now(), self._timing)
        if self._state.term and not before.term:
            say(gained=self._index, at=time.monotonic())

    def _live(self) -> Life:
        while (todo := machine.plan(self._state, clock.now())).act != "leave":
            try:
                yield from self._do(todo)
            except NoReplyError:
                self._apply(Failed(random.random()))
        yield clock.now() + SECOND_CHANCE
        with contextlib.suppress(NoReplyError):
            yield from self._release(0, "", leave=True)

    def _do(self, todo: machine.Plan) -> Life:
        if todo.act in ("campaign", "poll"):
            yield from self._campaign(poll=todo.act == "poll")
        elif todo.act == "renew" and self._state.term:
            yield from self._renew(self._state.term.token)
        elif todo.act == "release" and self._state.ended:
            try:
                yield from self._release(self._state.ended.term.token, self._state.ended.reason, leave=False)
            finally:
                self._apply(Released())
        elif todo.listen:
            yield from self._listen(todo.until)
        else:
            if self._state.term:
                self._packed_release(self._state.term.token, "resigned", leave=False)
            yield todo.until

    def _campaign(self, *, poll: bool) -> Life:
        asked_at, answer = clock.now(), None
        if poll:
            until = asked_at + self._timing.retry
            crowded = pace.usual(self._candidates, self._timing) > self._timing.retry
            due = crowded or over_before(self._state, until)
            request = self._packed("poll", requests.packed_poll, self._candidate_id)
            reply = yield from self._ask(request, wait_until=None if due else until)
            answer = None if reply.endswith(b"\nunsure") else requests.parse(reply)
        if not answer or answer.token < self._state.highest_token:
            not_after, at = machine.preconditions(self._state, asked_at, self._timing).not_after, _iso(utc_now())
            answer = requests.parse(
                (yield from self._ask(self._packed_campaign(asked_at), _milliseconds(not_after), at, at))
            )
        self._candidates = answer.candidates
        self._apply(Campaigned(asked_at, answer, random.random()))

    def _renew(self, token: int) -> Life:
        asked_at = clock.now()
        heartbeat = self._packed("renew", requests.packed_heartbeat, self._candidate_id, token, self._info)
        reply = yield from self._ask(heartbeat, _iso(utc_now()))
        answer = requests.parse_renewed(reply, self._candidate_id, token, self._timing)
        if not answer:
            raise Trouble("a light leader has lost its lease")
        self._apply(Renewed(asked_at, answer))

    def _release(self, token: int, reason: str, *, leave: bool) -> Life:
        not_after = machine.preconditions(self._state, clock.now(), self._timing).not_after
        request = self._packed_release(token, reason, leave=leave)
        yield from self._ask(request, _milliseconds(not_after), pause=YIELD if token else 0.0)

    def _listen(self, until: float) -> Life:
        self._packed_campaign(clock.now())
        patience = until
        if self._wait_reply_due is None:
            exact = not self._state.poll_suffices or over_before(self._state, until)
            seconds = until - clock.now() - (SERVER_TIMER if exact else 0.0)
            if seconds < SERVER_TIMER / 2:
                yield until
                return
            self._send(self._wait(seconds))
            self._wait_reply_due, patience = until, until if exact else until + 2 * SERVER_TIMER
        elif until >= self._wait_reply_due:
            patience = until + 2 * SERVER_TIMER
        element = yield patience
        if element is None:
            self._close()  # a reply is still owed
            return
        self._wait_reply_due = None
        if element is not NOTHING:
            self._apply(Woken())
        elif clock.now() < until:
            yield until

    def _wait(self, seconds: float) -> bytes:
        return self._waits[random.random() * self._candidates < QUEUE].filled(blpop_seconds(seconds))

    def _ask(
        self, request: requests.Packed, *values: bytes, wait_until: float | None = None, pause: float = 0.0
    ) -> Generator[float, Any, bytes]:
        """Send a request, and with ``wait_until`` a wait behind it. Return its reply. ``pause``: as of ``Channel``."""
        if self._wait_reply_due is not None:
            self._close()
        echo = b"%d" % next(_requests)
        wait = b"" if wait_until is None else self._wait(wait_until - clock.now())
        self._send(request.filled(echo, *values) + wait)
        self._wait_reply_due, self._asks = wait_until, True
        if pause:
            self._loop.forget(self._sock)
            yield clock.now() + pause
            self._loop.watch(self._sock, self._readable)
        reply = yield clock.now() + self._timing.operation
        self._asks = False
        if reply is None:
            self._close()
            raise NoReplyError
        if not reply.startswith(echo):
            raise Trouble("a reply to another request")
        answer: bytes = reply
        return answer

    def _packed_campaign(self, asked_at: float) -> requests.Packed:
        preconditions = machine.preconditions(self._state, asked_at, self._timing)._replace(not_after=0.0)
        return self._packed("campaign", requests.packed_campaign, self._candidate_id, preconditions, self._info, "")

    def _packed_release(self, token: int, reason: str, *, leave: bool) -> requests.Packed:
        preconditions = Preconditions(self._state.highest_token)  # nothing is regained here
        return self._packed(
            "release", requests.packed_release, self._candidate_id, token, reason, preconditions, leave=leave, hold=0
        )

    def _packed(self, name: str, pack: Callable[..., requests.Packed], *said: Any, **how: Any) -> requests.Packed:
        """Return the last request of this name, if it said the same, or a new one."""
        known = self._requests.get(name)
        if known is None or known[0] != (said, how):
            sha = script(name, FLAGS).sha
            known = self._requests[name] = (said, how), pack(_pack, sha, self._keys, self._timing, *said, **how)
        return known[1]

    def _send(self, command: bytes) -> None:
        if self._sock is None:
            self._sock = socket.create_connection(self._place)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._loop.watch(self._sock, self._readable)
        self._sock.sendall(command)

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
        for name in SCRIPTS:
            client.script_load(script(name, FLAGS).source)
    loop = Loop()
    lights = [Light(loop, address, index) for index in range(count)]

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


def _pack(*command: Any) -> bytes:
    return b"".join(_encoder.pack_command(*command))  # type: ignore[no-untyped-call]


def _iso(at: datetime) -> bytes:
    return at.isoformat(timespec="microseconds").encode()


def _milliseconds(seconds: float) -> bytes:
    return b"%013d" % (seconds * 1000)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
