"""Whatever comes from Redis is read, or refused by the documented error."""

from __future__ import annotations

import contextlib
import json
import re
from datetime import timedelta, timezone
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol import replies
from django_leader.protocol.config import Config
from django_leader.protocol.records import (
    LONGEST_NAME,
    UNPRINTABLE,
    Answer,
    Event,
    LeaderInfo,
    Preconditions,
    parse_number,
    printable,
)
from tests.support.lease import Lease

TIMING = Config().validate().timing
ODD = ["nan", "inf", "-1", "", "9" * 5000, "²", "\x00", "1e400", "٣", str(2**64), "\ud800", "\u202e", "x" * 3000]
NUMBERS = st.one_of(st.integers().map(str), st.sampled_from(ODD), st.text())
BYTES = NUMBERS.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary()
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=9), one, max_size=3),
    max_leaves=6,
)


def shown(text: str) -> bool:
    return len(text) <= LONGEST_NAME and not UNPRINTABLE.search(text)


@given(st.binary() | st.lists(BYTES, min_size=12, max_size=13).map(b"\n".join))
@example(b"1\nheld\n" + b"9" * 5000 + b"\n1\n1\n1\nv\n1\n1\n\n\n")
@example(b"1\nheld\n1\n" + b"9" * 4000 + b"\n1\n1\nv\n1\n1\n\n\n")
def test_an_answer_is_read_or_refused(reply: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(replies.answer(reply), Answer)


@given(st.binary() | st.lists(BYTES, min_size=5, max_size=5).map(b" ".join))
@example(b"1 renewed " + b"9" * 4000 + b" v 1")
@example(b"1 renewed 7 \xff 1")
def test_the_answer_to_a_heartbeat_is_read_or_refused(reply: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(replies.renewed(reply, "a", 7, TIMING), Answer | None)


@given(BYTES | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"duplicate": "\\ud800"}')
@example(b'{"wake": 1}')
@example(b'{"duplicate": ' + b"9" * 5000 + b"}")
def test_any_message_is_read(text: bytes) -> None:
    message = replies.message(text)
    assert "wake" not in message
    if isinstance(duplicate := message.get("duplicate"), str):
        duplicate.encode()


@given(st.tuples(*[NUMBERS] * 5))
@example(("18446744073709551615-18446744073709551615", "k", "r", "h", "1"))
@example(("99999999999999999999-0", "k", "r", "h", "1"))
def test_any_event_is_read(texts: tuple[str, ...]) -> None:
    event = Event.from_texts(*texts)
    assert all(map(shown, (event.kind, event.instance_id, event.reason)))
    assert 0 <= event.fencing_token < 10**16
    event.at.astimezone(timezone(timedelta(hours=14)))


@given(st.dictionaries(st.sampled_from(list(vars(LeaderInfo("")))), JSON), st.text())
@example({"instance_id": "a", "pid": 10**4000, "fencing_token": -1}, "a")
@example({"instance_id": "a", "started_at": "9999-12-31T23:59:59-23:59"}, "a")
def test_any_description_is_read(described: dict[str, Any], instance: str) -> None:
    for text in (json.dumps(described), json.dumps({**described, "instance_id": instance})):
        info = LeaderInfo.from_json(text, instance)
        assert shown(info.instance_id)
        assert shown(info.hostname)
        assert 0 <= info.pid < 2**63
        assert 0 <= info.fencing_token < 2**63
        for time in (info.started_at, info.last_heartbeat):
            if time:
                time.astimezone(timezone(timedelta(hours=14)))
        json.dumps(info.as_dict())


@pytest.mark.parametrize("text", ODD)
def test_what_is_no_number_is_0(text: str) -> None:
    assert parse_number(text) == 0


def test_what_turns_a_line_around_is_not_shown() -> None:
    assert printable("a\u202eb\u2066c\u200f\u061c\u2028d\x9b\x00") == "abcd"
    assert printable("é ß 漢字 👩‍🚀") == "é ß 漢字 👩‍🚀"
    assert printable("x" * 10**6) == "x" * 255


REPLIES = st.one_of(
    st.none(), st.integers(), BYTES, st.lists(BYTES | st.integers() | st.none() | st.lists(BYTES)), st.just([b"?"] * 7)
)


@settings(max_examples=300)
@given(REPLIES, st.booleans())
def test_a_reply_of_any_kind_is_read_or_refused(reply: Any, ours: bool) -> None:
    """Also one with the number of its request, as a server that is none may give it."""
    lease = Lease(lambda timeout: pytest.fail("connects"), Config().validate())

    def call(command: bytes, **options: Any) -> Any:
        [number] = re.findall(rb"\r\n(1\d{11})\r\n", command)
        if ours and isinstance(reply, bytes):
            return number + b"\n" + reply
        return [number, *reply] if ours and isinstance(reply, list) else reply

    lease.channel.call = cast(Any, call)  # type: ignore[method-assign]
    for ask in (
        lease.status,
        lambda: lease.history(9),
        lambda: lease.collect("a"),
        lambda: lease.post("a", {}),
        lambda: lease.campaign("a", Preconditions(), LeaderInfo("a")),
        lambda: lease.renew("a", 1, LeaderInfo("a"), Preconditions()),
        lambda: lease.release("a", 1, "resigned", leave=False),
    ):
        with contextlib.suppress(RedisUnavailable):
            ask()
