"""Why Redis cannot be asked: no word of a library's exception is told, whatever it says."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis import exceptions
from redis._parsers import BaseParser
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.sentinel import MasterNotFoundError

from django_leader.exceptions import ConfigError
from django_leader.protocol.scripts import NOT_UNDERSTOOD
from django_leader.redis.reasons import (
    CODES,
    MEANINGS,
    NoPrimary,
    closed,
    explain,
    place_in,
    place_of,
    refuse,
)
from django_leader.system.log import way_to

SECRET = "hunter2"
PLACE = "host:6379"


def replied(line: str) -> Exception:
    """What the installed redis-py makes of an error reply."""
    error: Exception = BaseParser.parse_error(line)  # type: ignore[no-untyped-call]
    return error


def after(cause: Exception, error: type[Exception] = exceptions.ConnectionError) -> Exception:
    """As redis-py raises one error for another."""
    try:
        try:
            raise cause
        except type(cause):
            raise error(f"Error {SECRET} connecting to {SECRET}")  # noqa: B904 - neither does redis-py
    except error as raised:
        return raised


CLUSTERED = "this is a Redis Cluster (it answered "
CLUSTER = ", which django-leader does not support yet; use a single server or Sentinel"
REPLIES = {
    "ERR Protocol error: unauthenticated multibulk length": "Redis answered NOAUTH: it needs a password",
    "NOAUTH Authentication required.": "Redis answered NOAUTH: it needs a password, and none is configured",
    f"WRONGPASS invalid username-password pair {SECRET}": "Redis answered WRONGPASS: it does not accept the user name",
    f"NOPERM this user {SECRET} has no permissions to run the 'evalsha' command or its subcommand": (
        "Redis answered NOPERM: it does not let this user run evalsha"
    ),
    f"NOPERM No permissions to access a key {SECRET}": "Redis answered NOPERM: its ACL denies this user something",
    f"ERR ACL failure in script: User {SECRET} has no permissions to run the 'info' command": (
        "Redis answered NOPERM: it does not let this user run info"
    ),
    f"ERR {SECRET}: The user executing the script can't run this command or subcommand": "Redis answered NOPERM: ",
    f"ERR unknown command `AUTH`, with args beginning with: `{SECRET}`, ": (
        "Redis answered an error: it does not know AUTH"
    ),
    f"ERR unknown command 'EVALSHA', with args beginning with: '{SECRET}'": (
        "Redis answered an error: it does not know EVALSHA"
    ),
    f"ERR AUTH {SECRET} called without any password configured for the default user.": (
        "Redis answered an error: called without any password configured"
    ),
    "ERR max number of clients reached": "Redis answered an error: max number of clients reached",
    f"ERR Error compiling script {SECRET}: symbol {NOT_UNDERSTOOD}": f"Redis answered an error: {NOT_UNDERSTOOD}",
    f"ERR Error running script (call to f_{SECRET}): @user_script:12: WRONGTYPE Operation against a key": (
        "Redis answered WRONGTYPE: a key of the election is of another type"
    ),
    "NOPERM MIN_REPLICAS needs INFO": "Redis answered NOPERM: MIN_REPLICAS needs INFO",
    "NOREPLICAS fewer replicas are connected than MIN_REPLICAS asks for": (
        "Redis answered NOREPLICAS: fewer replicas are connected than MIN_REPLICAS asks for"
    ),
    f"NOREPLICAS Not enough good replicas to write. {SECRET}": "Redis answered NOREPLICAS: fewer replicas",
    f"LOADING {SECRET}": "Redis answered LOADING: it still loads its data",
    f"BUSY {SECRET}": "Redis answered BUSY: ",
    f"OOM {SECRET}": "Redis answered OOM: its memory is full",
    f"READONLY {SECRET}": "Redis answered READONLY: it is a replica",
    f"MISCONF {SECRET}": "Redis answered MISCONF: ",
    f"DENIED {SECRET}": "Redis answered DENIED: it is in protected mode",
    f"MASTERDOWN {SECRET}": "Redis answered MASTERDOWN: ",
    f"WRONGTYPE {SECRET}": "Redis answered WRONGTYPE: ",
    f"NEWCODE {SECRET}": "Redis answered an error: one that django-leader does not know",
    f"ERR {SECRET}": "Redis answered an error: one that django-leader does not know",
    f"{SECRET}": "Redis answered an error: one that django-leader does not know",
    "CROSSSLOT Keys in request don't hash to the same slot": f"{CLUSTERED}CROSSSLOT){CLUSTER}",
    "MOVED 11447 127.0.0.1:17643": f"{CLUSTERED}MOVED){CLUSTER}",
    "ASK 11447 127.0.0.1:17643": f"{CLUSTERED}ASK){CLUSTER}",
    "CLUSTERDOWN Hash slot not served": f"{CLUSTERED}CLUSTERDOWN){CLUSTER}",
    "TRYAGAIN Multiple keys request during rehashing": f"{CLUSTERED}TRYAGAIN){CLUSTER}",
}


@pytest.mark.parametrize(("line", "told"), REPLIES.items())
def test_of_an_error_reply_the_code_and_its_meaning_are_told(line: str, told: str) -> None:
    for error in (replied(line), exceptions.ResponseError(line)):  # newer and older versions of redis-py
        assert explain(error, PLACE).startswith(told)
        assert SECRET not in explain(error, PLACE)
        assert not closed(error)


def test_the_codes_of_redis_py_are_those_that_have_a_meaning() -> None:
    assert set(CODES.values()) <= set(MEANINGS)


FAILURES: list[tuple[Exception, str]] = [
    (after(ConnectionRefusedError(errno.ECONNREFUSED, SECRET)), "host:6379: connection refused"),
    (after(ConnectionResetError(errno.ECONNRESET, SECRET)), "host:6379 closed the connection"),
    (after(BrokenPipeError(errno.EPIPE, SECRET)), "host:6379 closed the connection"),
    (after(OSError(errno.EHOSTUNREACH, SECRET)), "host:6379: no route to host"),
    (after(FileNotFoundError(errno.ENOENT, SECRET)), "host:6379: no such file or directory"),
    (after(socket.gaierror(-2, SECRET)), "host:6379: the host name cannot be resolved"),
    (after(ssl.SSLCertVerificationError(1, SECRET)), "host:6379: its TLS certificate is not accepted"),
    (after(ssl.SSLError(1, SECRET)), "host:6379: TLS failed"),
    (after(TimeoutError(SECRET), exceptions.TimeoutError), "host:6379 does not answer in time"),
    (after(OSError(SECRET)), "host:6379 closed the connection"),
    (TimeoutError(SECRET), "host:6379 does not answer in time"),
    (exceptions.TimeoutError(SECRET), "host:6379 does not answer in time"),
    (exceptions.ConnectionError(SECRET), "host:6379 closed the connection"),
    (exceptions.InvalidResponse(SECRET), "host:6379 does not speak the protocol of Redis; check whether a proxy"),
    (exceptions.DataError(SECRET), "host:6379 cannot be used (DataError)"),
    (exceptions.AuthenticationError(SECRET), "Redis answered WRONGPASS: it does not accept"),
    (MasterNotFoundError(SECRET), "host:6379 cannot be used (MasterNotFoundError)"),
    (ValueError(SECRET), "host:6379 cannot be used (ValueError)"),
    (UnicodeError(SECRET), "host:6379 cannot be used (UnicodeError)"),
    (RuntimeError(SECRET), "host:6379 cannot be used (RuntimeError)"),
    (NoPrimary("no Sentinel"), "no Sentinel"),
]


@pytest.mark.parametrize(("error", "told"), FAILURES, ids=lambda value: value if isinstance(value, str) else "")
def test_of_any_other_failure_its_kind_and_place_are_told(error: Exception, told: str) -> None:
    assert explain(error, PLACE).startswith(told)
    assert SECRET not in explain(error, PLACE)


def test_what_the_caller_was_handling_before_is_no_cause() -> None:
    def asks() -> tuple[str, bool, bool]:
        try:
            raise exceptions.ConnectionError("Connection closed by server.")
        except exceptions.ConnectionError as error:
            return explain(error, PLACE), closed(error), error.__context__ is not None

    try:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "of another server")
    except ConnectionRefusedError:
        found = asks()
    assert found == ("host:6379 closed the connection", True, True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.ConnectionError("Connection closed by server."), True),
        (after(ConnectionResetError(errno.ECONNRESET, "")), True),
        (after(BrokenPipeError(errno.EPIPE, "")), True),
        (ConnectionResetError(errno.ECONNRESET, ""), True),
        (after(OSError(errno.EHOSTUNREACH, "")), False),
        (after(ConnectionRefusedError(errno.ECONNREFUSED, "")), False),
        (exceptions.TimeoutError(), False),
        (TimeoutError(), False),
        (exceptions.AuthenticationError(), False),
        (exceptions.BusyLoadingError(), False),
        (exceptions.ConnectionError("max number of clients reached"), False),
    ],
)
def test_only_the_end_of_a_connection_is_one_and_no_timeout(error: Exception, expected: bool) -> None:
    assert closed(error) is expected


def test_a_place_has_no_credentials() -> None:
    credentials: dict[str, Any] = {"username": SECRET, "password": SECRET}
    kinds: tuple[Any, Any, Any] = Connection, SSLConnection, UnixDomainSocketConnection
    assert place_of(kinds[0](host="h", port=1, **credentials)) == "h:1"
    assert place_of(kinds[1](host="::1", port=2, **credentials)) == "[::1]:2"
    assert place_of(kinds[2](path="/run/redis", **credentials)) == "/run/redis"
    assert place_of(None) == "Redis"
    assert place_in({"host": "h", "port": 1, **credentials}) == "h:1"
    assert place_in({"path": "/run/redis", **credentials}) == "/run/redis"
    assert place_in(credentials) == "localhost:6379"


def test_the_way_to_an_exception_is_told_without_its_text() -> None:
    """Also without that of its cause."""

    def fails(password: str) -> None:
        raise KeyError(password)

    def fails_by_it(password: str) -> None:
        try:
            fails(password)
        except KeyError as error:
            raise RuntimeError(password) from error

    with pytest.raises(RuntimeError) as raised:
        fails_by_it(SECRET)
    told = way_to(raised.value)
    assert told.startswith("RuntimeError in ")
    assert "> fails_by_it (test_reasons.py:" in told
    assert SECRET not in told


@pytest.mark.parametrize("make", [lambda: redis.RedisCluster, lambda: type("Own", (redis.RedisCluster,), {})])
def test_the_client_of_a_cluster_is_refused(make: Callable[[], Any]) -> None:
    kind = make()
    with pytest.raises(ConfigError, match=rf"^this is a Redis Cluster \({kind.__name__}\){CLUSTER}$"):
        refuse(kind.__new__(kind))
    refuse(redis.Redis())


def test_a_socket_whose_path_is_too_long_is_named_as_the_cause() -> None:
    """The system says so without a number, as if the connection had been closed."""
    connection: Any = redis.Redis(unix_socket_path=f"/tmp/{'x' * 103}").connection_pool.make_connection()
    with pytest.raises(exceptions.ConnectionError) as error:
        connection.connect()
    said = explain(error.value, place_of(connection))
    assert said == f"/tmp/{'x' * 103}: the path of a Unix socket has at most 107 bytes; use a shorter one"
    assert not explain(after(FileNotFoundError(errno.ENOENT, "")), f"/tmp/{'x' * 102}").count("at most")
