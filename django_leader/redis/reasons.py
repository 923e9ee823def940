"""Why Redis is unreachable, in words of our own.

The text of an exception is never passed on, because it may hold a secret. redis-py prints the arguments of a connection
in some of its errors, and a server repeats the arguments of a command that it does not know, ``AUTH`` among them. An
explanation has only the place (host and port, without credentials), the kind of failure, the code of an error reply,
and the meaning of that code.

NOT guaranteed here: that a host name holds no secret, if a password in ``LOCATION`` was not percent-encoded. The check
of ``LOCATION`` finds that (``client``).
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import traceback
from collections.abc import Iterator
from typing import Any

from redis import Redis, exceptions
from redis.sentinel import MasterNotFoundError

from django_leader.exceptions import ConfigError
from django_leader.protocol.scripts import NOT_UNDERSTOOD
from django_leader.protocol.template import IN_ITS_PLACE

from .limits import TooLong

CLOSED = (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)
CLUSTER = "this is a Redis Cluster{}, which django-leader does not support yet; use a single server or Sentinel"
ANSWERED = "Redis answered {}: {}"
UNKNOWN = "an error"
"""Stands for the code ERR, and for a text that may be no code."""

CODES = {
    "AskError": "ASK", "AuthenticationError": "WRONGPASS", "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT", "ClusterDownError": "CLUSTERDOWN", "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED", "NoPermissionError": "NOPERM", "OutOfMemoryError": "OOM", "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}  # fmt: skip
"""The classes of redis-py whose text lacks the code. Its newer versions have the code in ``status_code``."""
MEANINGS = {
    "BUSY": "it runs a script that takes too long",
    "DENIED": "it is in protected mode, and accepts local connections only",
    "LOADING": "it still loads its data",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "MISCONF": "it cannot save its data, and accepts no writes until it can",
    "NOAUTH": "it needs a password, and none is configured",
    "NOPERM": "its ACL denies this user something that an election needs",
    "NOREPLICAS": "fewer replicas are connected than it needs to accept writes",
    "OOM": "its memory is full (maxmemory)",
    "READONLY": "it is a replica, and accepts no writes",
    "WRONGPASS": "it does not accept the user name or the password",
    "WRONGTYPE": "a key of the election is of another type, so something else uses that key",
} | dict.fromkeys(("ASK", "CLUSTERDOWN", "CROSSSLOT", "MOVED", "TRYAGAIN"), CLUSTER)
LONGEST_SOCKET_PATH = 107
"""Bytes. The kernel has room for 108, with the zero at the end (unix(7))."""
IN_A_SCRIPT = re.compile(r"\b(" + "|".join(sorted(MEANINGS)) + r")\b")
"""The codes that Redis before 7 gives after ERR, if a command that a script called has failed."""
PHRASES = (
    NOT_UNDERSTOOD, "MIN_REPLICAS needs INFO", "fewer replicas are connected than MIN_REPLICAS asks for",
    "max number of clients reached", "DB index is out of range", "called without any password configured",
)  # fmt: skip
"""Parts of error replies that are passed on as they are, because they are constant."""
COMMAND = re.compile(r"(?:unknown command |to run the )['`]([A-Za-z|]{1,40})['`]")
"""The command that the server does not know or that its ACL denies."""


class NoPrimary(MasterNotFoundError):  # type: ignore[misc, unused-ignore]
    """No Sentinel names a primary. The text is our own."""


def explain(error: BaseException, place: str = "Redis") -> str:
    """Return what went wrong at ``place``, without a word of ``error`` that could be a secret. Local, never raises."""
    if isinstance(error, NoPrimary | TooLong):
        return str(error)
    if code := _code(error):
        return _answered(code, str(error))
    for cause in _causes(error):
        if said := _of_system(cause, place):
            return said
    if isinstance(error, exceptions.TimeoutError):
        return f"{place} does not answer in time"
    if isinstance(error, exceptions.InvalidResponse):
        return f"{place} does not speak the protocol of Redis; {IN_ITS_PLACE}"
    if type(error) is exceptions.ConnectionError:
        return f"{place} closed the connection"
    return f"{place} cannot be used ({type(error).__name__})"


def closed(error: BaseException) -> bool:
    """Return whether the other end has closed or reset the connection. A timeout does not count. Local."""
    if _code(error) or type(error) not in (exceptions.ConnectionError, ConnectionResetError, BrokenPipeError):
        return False
    numbers = [cause.errno for cause in _causes(error) if isinstance(cause, OSError)]
    return all(number in CLOSED for number in numbers)


def refused(error: BaseException) -> bool:
    """Return whether the other end has answered with an error. Local."""
    return bool(_code(error))


def place_of(connection: Any) -> str:
    """Return where a connection of redis-py leads, without credentials. Local."""
    if path := getattr(connection, "path", None):
        return str(path)
    host, port = (getattr(connection, name, None) for name in ("host", "port"))
    return _place(host, port) if host else "Redis"


def place_in(kwargs: dict[str, Any]) -> str:
    """Return the same, from the arguments with which a connection is made. Local."""
    return str(kwargs.get("path") or _place(kwargs.get("host", "localhost"), kwargs.get("port", 6379)))


def refuse(client: object) -> None:
    """Raise ``ConfigError`` for an object that is no client of a single server or Sentinel. Local."""
    kind = type(client)
    if any(base.__name__ == "RedisCluster" for base in kind.__mro__):  # of redis.asyncio, too
        raise ConfigError(CLUSTER.format(f" ({kind.__name__})"))
    if not isinstance(client, Redis):
        raise ConfigError(f"client must be a redis.Redis or a function that returns one, and is {kind.__qualname__}")


def _place(host: Any, port: Any) -> str:
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def _code(error: BaseException) -> str:
    """Return the code of an error reply; empty for any other exception."""
    text, kind = str(error), type(error)
    if text == "max number of clients reached":  # a ConnectionError, which some versions of redis-py do not mark
        return UNKNOWN
    if not issubclass(kind, exceptions.ResponseError | exceptions.AuthenticationError | exceptions.BusyLoadingError):
        return ""
    if text == "Authentication required.":
        return "NOAUTH"
    named = next((CODES[base.__name__] for base in kind.__mro__ if base.__name__ in CODES), "")
    code = getattr(error, "status_code", None) or named or text.partition(" ")[0]
    return code if code in MEANINGS else UNKNOWN


def _answered(code: str, text: str) -> str:
    if code == UNKNOWN and (inner := IN_A_SCRIPT.search(text)):
        code = inner[1]
    elif code == UNKNOWN and ("ACL failure" in text or "can't run this command" in text):
        code = "NOPERM"
    elif code == UNKNOWN and "unauthenticated" in text:  # a request too long for a client that has not logged in
        code = "NOAUTH"
    meaning = MEANINGS.get(code, "one that django-leader does not know")
    if meaning == CLUSTER:
        return CLUSTER.format(f" (it answered {code})")
    if phrase := next((phrase for phrase in PHRASES if phrase in text), ""):
        meaning = phrase
    elif command := COMMAND.search(text):
        meaning = (
            f"it does not let this user run {command[1]}" if code == "NOPERM" else f"it does not know {command[1]}"
        )
    return ANSWERED.format(code, meaning)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception, and those that it was raised for, but none that the caller was handling before."""
    ours = {id(frame) for frame, _ in traceback.walk_tb(error.__traceback__)}
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
        if seen is None or seen.__traceback__ is None or id(seen.__traceback__.tb_frame) not in ours:
            return


def _of_system(error: BaseException, place: str) -> str:
    """Return what an error of the operating system or of TLS means; empty for any other."""
    if isinstance(error, socket.gaierror):
        return f"{place}: the host name cannot be resolved"
    if isinstance(error, TimeoutError):
        return f"{place} does not answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{place}: its TLS certificate is not accepted"
    if isinstance(error, ssl.SSLError):
        return f"{place}: TLS failed"
    if isinstance(error, OSError) and place.startswith("/") and len(os.fsencode(place)) > LONGEST_SOCKET_PATH:
        return f"{place}: the path of a Unix socket has at most {LONGEST_SOCKET_PATH} bytes; use a shorter one"
    if not isinstance(error, OSError) or error.errno is None:
        return ""
    if error.errno in CLOSED:
        return f"{place} closed the connection"
    if error.errno == errno.ECONNREFUSED:
        return f"{place}: connection refused"
    return f"{place}: {os.strerror(error.errno).lower()}"
