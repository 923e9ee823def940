"""One private connection to Redis, used by one thread at a time.

NOT guaranteed here: that a request whose reply did not come was not executed. The caller must treat that outcome as
unknown.

- It never uses a pool of the application, and never the timeouts of one. A pool of redis-py is shared, and its defaults
  retry a request that may already have been executed, for up to a minute.
- Nothing is sent twice here. After any error or missing reply the connection is dropped, so that no later request can
  be answered by the reply to an earlier one.
- A connection that ended while it was idle (a restart, the server's ``timeout``, a proxy, ``CLIENT KILL``) is replaced
  before a request is sent, if the kernel knows of its end by then. If it does not, the request fails with
  ``ConnectionClosed``. A caller that knows that the request may be executed twice can then send it again: see
  ``runner``.
- A wait that fails in this way is begun again, once. If the first wait took an element, that element is lost with its
  reply, as it is without a second wait. The candidate that waits asks Redis again after its time in any case.
- A wait is a blocking command at the server and, at the same time, a poll in this process on the socket and on a
  ``Waker``. The server's timer is coarse (up to 0.1 s late by default). Where the instant counts, the command is asked
  to end early, and the rest of the time is waited for here.
- A wait can be sent in one piece with the request before it. Until its reply has come, the connection cannot be used
  for anything else. A call that cannot wait for that reply detaches the connection and makes a new one.
- A channel belongs to the process that made it. In a forked child every operation that would send, or act on a reply,
  raises ``Forked``, and the inherited descriptor is closed without a message to the server.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - otherwise the first connect imports it, and a child forked meanwhile never can
import os
import socket
import time
from typing import Any

from redis.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoPermissionError, NoScriptError, RedisError, ResponseError

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.requests import SERVER_TIMER, lasting
from django_leader.protocol.template import GarbledReply, Request, garbled
from django_leader.system import clock
from django_leader.system.forks import Forked, check, close_silently
from django_leader.system.waker import Waker, readable

from .connector import Connect
from .reasons import closed, explain, place_of, refused

EXPECTED = (RedisError, OSError, ValueError)
"""What a connection raises when it fails. Any other exception of a request is a defect."""
DENIED = ("NOPERM", "ACL failure", "The user executing the script can't")
"""What Redis replies, depending on its version, to a script in which something was denied."""
SLICE = 0.02
"""Seconds between two checks of a connection without a real socket, such as that of fakeredis."""


class ConnectionClosed(RedisUnavailable):
    """The other end has closed a connection that had answered before. Whether the request was executed is unknown."""


class Refused(RedisUnavailable):
    """Redis has answered with an error, so it is reachable."""


class Channel:
    """A connection that is made when it is needed and dropped when it is in doubt. For one thread at a time."""

    def __init__(self, connect: Connect, timeout: float, waker: Waker | None = None, if_denied: str = "") -> None:
        self._pid, self._if_denied = os.getpid(), if_denied
        self._connect, self._timeout, self._waker = connect, timeout, waker
        self._connection: Connection | None = None
        self.number = 0
        """The number of the connection. Each new connection has a higher one."""
        self._detached: Connection | None = None
        self._answered = False
        """Whether the connection has given a reply. A connection that is closed before cannot be used at all."""
        self._wait_reply_due: float | None = None
        """The instant until which a wait was requested whose reply has not come."""

    def call(
        self,
        packed: bytes,
        *,
        wait: Request | None = None,
        until: float = 0.0,
        pause: float = 0.0,
        same_connection: bool = False,
    ) -> Any:
        """Send one packed command once and return its reply. One round trip, more if it must connect first.

        A ``wait`` until the instant ``until`` is sent behind it, in one piece; the method ``wait`` returns the reply to
        that. ``pause``: seconds to sleep before the reply is read. With ``same_connection`` it is an error if the
        connection of the last call has ended.
        Raise ``RedisUnavailable``; the outcome of the command is then unknown. The error is ``ConnectionClosed`` if the
        connection may have ended before. ``NoScriptError`` is passed on, because it is the one error reply for which
        the caller knows what to do.
        """
        try:
            check(self._pid)
            if same_connection and self.connection is None:
                raise RedisConnectionError
            # If the connection ends right now, ``_open`` would make a new one.
            connection = self._connection if same_connection else self._open()
            assert connection
            return self._call(connection, packed, wait, until, pause)
        except NoScriptError:
            raise
        except BaseException as error:
            raise self._failure(error) from None

    def wait(self, command: Request, until: float, *, exact: bool = True) -> tuple[bytes, bytes] | None:
        """Wait for an element in one of the lists of ``command`` until an instant, or until the waker is set.

        Return (key, element), or None when the time is over or the waker was set. A wait that was sent already goes on.
        If it was meant to last as long, or is not to be ``exact``, it may end late by the server's timer. Raise
        ``RedisUnavailable``.
        """
        try:
            return self._wait(command, until, exact=exact)
        except ConnectionClosed:
            return self._wait(command, until, exact=exact)

    def _wait(self, command: Request, until: float, *, exact: bool) -> tuple[bytes, bytes] | None:
        assert self._waker, "a channel that waits needs a waker"
        patience = until if exact else until + 2 * SERVER_TIMER
        try:
            check(self._pid)
            if self._wait_reply_due is None:
                seconds = until - clock.now() - (SERVER_TIMER if exact else 0.0)
                if seconds < SERVER_TIMER / 2:
                    self._waker.wait(until - clock.now())
                    return None
                self._close_detached()  # first: its BLPOP is still queued and would take our element
                _send(self._open(), lasting(command, seconds))
                self._wait_reply_due = until
            elif until >= self._wait_reply_due:
                patience = until + 2 * SERVER_TIMER
            assert self._connection
            check(self._pid)  # a greenlet may have forked meanwhile, and a reply that is there is read at once
            if not self._readable(patience):
                self._detach()
                return None
            reply, due, self._wait_reply_due = (
                self._connection.read_response(disable_decoding=True),
                self._wait_reply_due,
                None,
            )
            self._answered = True
            check(self._pid)  # before the reply is acted on: see ``forks``
        except BaseException as error:
            raise self._failure(error) from None
        if reply is None:
            # The server's timer was set early: wait out the rest here. After a wait that was meant to be shorter, the
            # caller begins another one instead.
            if due >= until > clock.now():
                self._waker.wait(until - clock.now())
            return None
        if not isinstance(reply, list) or len(reply) != 2:
            self.drop()
            raise garbled("BLPOP")
        return reply[0], reply[1]

    @property
    def connected(self) -> bool:
        """Whether there is a connection that has not ended as far as the kernel knows. Local, any thread."""
        # On an idle connection there is nothing to read but its end, or what was not asked for.
        connection = self._connection
        return connection is not None and (self._wait_reply_due is not None or not _has_something_to_read(connection))

    @property
    def connection(self) -> int | None:
        """The number of the connection on which the next call leaves; None if that makes a new one. Local."""
        return self.number if self._wait_reply_due is None and self.connected else None

    def drop(self) -> None:
        """Close the connection. The next call makes a new one."""
        self._close_detached()
        _close(self._connection)
        self._connection = self._wait_reply_due = None
        self._answered = False

    def open(self) -> None:
        """Connect ahead of the next call, if there is no connection. Raise ``RedisUnavailable``."""
        try:
            self._open()
        except BaseException as error:
            raise self._failure(error) from None

    def abandon(self) -> None:
        """Close the inherited descriptor in a forked child, without a message to the server."""
        for connection in (self._connection, self._detached):
            sock = getattr(connection, "_sock", None)
            if connection is not None and sock is not None:
                connection._sock = None
                close_silently(sock)
        self._connection = self._detached = self._wait_reply_due = None
        self._connect = _refuse

    def cancel_wait(self) -> None:
        """Close the connections that still wait at the server, so that no wake-up goes there."""
        if self._wait_reply_due is not None:
            self._detach()
        self._close_detached()

    def _detach(self) -> None:
        # The reply to a wait is still due, so this connection cannot be used for anything else. Closing it takes time
        # that a hand-over may need, so that is done after the next call.
        self._close_detached()
        self._detached, self._connection, self._wait_reply_due = self._connection, None, None

    def _close_detached(self) -> None:
        _close(self._detached)
        self._detached = None

    def _failure(self, error: BaseException) -> BaseException:
        # The caller raises the result "from None", and nothing is raised here, because a traceback prints the text of a
        # cause, and some tracebacks print local variables.
        if self._pid != os.getpid():  # whatever failed was the parent's
            self.abandon()
            return Forked()
        answered, place = self._answered, place_of(self._connection)
        self.drop()
        if not isinstance(error, EXPECTED):
            return error
        kind = ConnectionClosed if answered and closed(error) else Refused if refused(error) else RedisUnavailable
        kind = GarbledReply if isinstance(error, InvalidResponse) else kind
        return kind(explain(error, place) + self._if_denied * denied(error))

    def _open(self) -> Connection:
        check(self._pid)
        if self._wait_reply_due is not None:
            self._detach()
        if not self.connected:
            self.drop()
            self._connection, self.number = self._connect(self._timeout), self.number + 1
            try:
                self._connection.connect()  # type: ignore[no-untyped-call]
            except EXPECTED:
                raise
            except Exception as error:  # for example of a credential provider
                raise RedisUnavailable(explain(error, place_of(self._connection))) from None
        check(self._pid)  # again: connecting takes a while, and a greenlet may have forked meanwhile
        assert self._connection
        return self._connection

    def _call(self, connection: Connection, packed: bytes, wait: Request | None, until: float, pause: float) -> Any:
        _send(connection, packed + lasting(wait, until - clock.now()) if wait else packed)
        self._wait_reply_due = until if wait else None
        if pause:
            time.sleep(pause)
        reply = connection.read_response(disable_decoding=True)
        self._answered = True
        check(self._pid)  # before the reply is acted on: see ``forks``
        if self._detached:
            self._close_detached()
        return reply

    def _readable(self, until: float) -> bool:
        assert self._connection
        assert self._waker
        sock = getattr(self._connection, "_sock", None)
        if isinstance(sock, socket.socket):
            if self._connection.can_read(0):
                return True
            return self._waker.wait(until - clock.now(), sock)[1]
        while not (ready := self._connection.can_read(0)) and clock.now() < until:
            if self._waker.wait(SLICE)[0]:
                return False
        return ready


def denied(error: BaseException) -> bool:
    """Return whether the server's ACL denies what was asked for. Local."""
    text = str(error) if isinstance(error, ResponseError) else ""  # of a script in which a call was denied
    return isinstance(error, NoPermissionError) or any(words in text for words in DENIED)


def _send(connection: Connection, packed: bytes) -> None:
    connection.send_packed_command([packed], check_health=False)  # type: ignore[no-untyped-call]


def _has_something_to_read(connection: Connection) -> bool:
    """Return whether the kernel has bytes or the end for us. False if that cannot be told, as of fakeredis."""
    sock = getattr(connection, "_sock", None)
    descriptor = sock.fileno() if isinstance(sock, socket.socket) else -1  # also -1 when another thread closed it
    return descriptor >= 0 and bool(readable([descriptor], 0))


def _refuse(timeout: float) -> Connection:
    raise Forked


def _close(connection: Connection | None) -> None:
    if connection is not None:
        with contextlib.suppress(Exception):
            connection.disconnect()  # type: ignore[no-untyped-call]
