"""LeaderInfo to and from JSON, whoever wrote it."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_leader.protocol.records import LeaderInfo, instance_of, parse_time

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
INFO = LeaderInfo("web-1", "host", AT, AT, 7, 42)


def test_info_survives_the_way_through_redis() -> None:
    assert LeaderInfo.from_json(json.dumps(INFO.as_dict()), "web-1") == INFO


def test_info_has_the_field_names_of_the_seed_first() -> None:
    assert list(INFO.as_dict())[:4] == ["instance_id", "hostname", "started_at", "last_heartbeat"]


def test_info_of_another_implementation_is_read() -> None:
    text = (
        '{"instance_id": "go-1", "hostname": "h", "started_at": "2026-01-02T03:04:05.678901234Z",'
        ' "last_heartbeat": "2026-01-02T05:04:05.6+02:00", "new_field": [1]}'
    )
    info = LeaderInfo.from_json(text, "go-1")
    assert info.started_at == AT
    assert info.last_heartbeat == AT.replace(microsecond=600000)
    assert info.fencing_token == 0


@pytest.mark.parametrize(
    "text",
    ["", "garbage", "[]", "null", "7", "{", '"x"', "[" * 100_000, '{"instance_id": "another"}', "\x00", "{}"],
)
def test_garbage_takes_nothing_away_from_who_leads(text: str) -> None:
    assert LeaderInfo.from_json(text, "web-1") == LeaderInfo("web-1")


def test_fields_of_a_wrong_type_are_empty() -> None:
    text = (
        '{"instance_id": "a", "hostname": 5, "started_at": 7, "last_heartbeat": "soon",'
        ' "fencing_token": "x", "pid": true}'
    )
    assert LeaderInfo.from_json(text, "a") == LeaderInfo("a")


def test_what_cannot_be_shown_is_taken_out() -> None:
    text = json.dumps({"instance_id": "a\x1b[31m", "hostname": "h\ud800\x00"})
    assert LeaderInfo.from_json(text, "a\x1b[31m") == LeaderInfo("a[31m", "h")


@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P"])))
def test_any_name_survives(name: str) -> None:
    assert LeaderInfo.from_json(json.dumps(LeaderInfo(name).as_dict()), name) == LeaderInfo(name)


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert LeaderInfo.from_json(text, "me").instance_id == "me"


@given(st.datetimes(datetime(1970, 1, 1), datetime(9998, 1, 1), timezones=st.just(timezone.utc)))  # noqa: DTZ001
def test_any_time_survives(at: datetime) -> None:
    assert parse_time(at.isoformat()) == at


@pytest.mark.parametrize(
    "value", [None, 5, "", "yesterday", "2026-01-02T03:04:05", "2026-13-40T00:00:00Z", "0001-01-01T00:00:00Z"]
)
def test_what_is_no_aware_time_is_none(value: object) -> None:
    assert parse_time(value) is None


@pytest.mark.parametrize(
    ("me", "instance"),
    [("web:0123456789abcdef", "web"), ("a:b:0123456789abcdef", "a:b"), ("seed-1", "seed-1"), ("a:b", "a:b"), ("", "")],
)
def test_the_instance_behind_a_candidacy(me: str, instance: str) -> None:
    assert instance_of(me) == instance
