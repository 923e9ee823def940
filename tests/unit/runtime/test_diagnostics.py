"""What the operator is told, each thing once."""

from __future__ import annotations

import logging
import math

import pytest

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.config import Config
from django_leader.protocol.machine import Ended, State, Term
from django_leader.protocol.records import Answer
from django_leader.protocol.template import GarbledReply
from django_leader.redis.channel import Refused
from django_leader.runtime.diagnostics import Diagnostics, server_warnings
from django_leader.system import clock, starvation

CONFIG = Config(instance_id="web-1").validate()
LEADS = State(term=Term(1, 106.8), next_at=100.0)


@pytest.fixture
def advice() -> Diagnostics:
    return Diagnostics("LEADER_ELECTIONS['default']", CONFIG)


def quarantined(version: str) -> Answer:
    return Answer("quarantined", 1, "", 9.5, 1, "", 0.0, version, 10.0)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("LEADER_ELECTIONS['default']: ") for line in found)
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    caplog.clear()
    return found


@pytest.mark.parametrize(
    ("error", "unexpected", "begins", "ends"),
    [
        (RedisUnavailable("why"), False, "Redis is unreachable (why). No leader", "Redis is reachable again"),
        (Refused("why"), False, "Redis refused a request of the election (why). This process", "Redis accepts the"),
        (GarbledReply("why"), False, "Redis answers, but not what it was asked for (why). This", "Redis answers what"),
        ("why", False, "too few replicas answer (why). No leader", "enough replicas answer again"),
        (KeyError("why"), True, "an error keeps this process from asking Redis (KeyError)", "this process can ask"),
    ],
)
def test_an_outage_and_its_end_are_told_once(
    advice: Diagnostics,
    caplog: pytest.LogCaptureFixture,
    error: BaseException | str,
    unexpected: bool,
    begins: str,
    ends: str,
) -> None:
    for _ in range(3):
        advice.failed(error, unexpected=unexpected)
    assert advice.outage in begins
    [line] = told(caplog)
    assert line.startswith(f"LEADER_ELECTIONS['default']: {begins}")
    for _ in range(3):
        advice.answered(quarantined("a")._replace(verdict="held"))
    assert advice.outage == ""
    [line] = told(caplog)
    assert line.startswith(f"LEADER_ELECTIONS['default']: {ends}")


def test_a_quarantine_is_told_once_and_the_next_not_within_a_minute(
    advice: Diagnostics, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, now in (("a", 0.0), ("a", 99.0), ("b", 100.0), ("c", 159.0), ("d", 160.0)):
        monkeypatch.setattr(clock, "now", lambda now=now: now)
        advice.answered(quarantined(version))
    first, second, _ = told(caplog)
    assert "no leader is elected for up to 10.0 s (QUARANTINE)" in first, "a newcomer watches all of it"
    assert "call history() of the election" in first
    assert "QUARANTINE" in second


def late(advice: Diagnostics, monkeypatch: pytest.MonkeyPatch, seconds: float, state: State = LEADS) -> float:
    """A turn that begins so late after a rest. Gives the delay that is known then."""
    advice._measured = -math.inf  # this is the next request, whenever it is due
    advice.turn_ended(state, 1.0)
    monkeypatch.setattr(clock, "now", lambda: state.next_at + seconds)
    advice.turn_began()
    return advice.delay


def test_a_late_heartbeat_is_told_once_a_term_and_cause(
    advice: Diagnostics, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    late(advice, monkeypatch, 1.4)
    assert told(caplog) == []
    second_term = LEADS._replace(term=Term(2, 101.0))
    for state in (LEADS, LEADS, second_term):
        late(advice, monkeypatch, 2.0, state)
        advice.turn_ended(state, 1.0)
    first, second = told(caplog)
    assert "2.0 s late; 4.8 s of the lease are left" in first
    assert "0.0 s of the lease are left" in second
    for cause in ("threads", "call", "threads"):
        monkeypatch.setattr(starvation, "explain", lambda *given, cause=cause, **more: (cause, f"It is {cause}"))
        late(advice, monkeypatch, 2.0, second_term)
        advice.turn_ended(second_term, 1.0)
    assert [line.rpartition("are left. ")[2] for line in told(caplog)] == ["It is threads.", "It is call."]


def test_a_late_heartbeat_is_told_when_it_has_been_answered(
    advice: Diagnostics, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log handler may be slow, and the lease is nearly over."""
    late(advice, monkeypatch, 2.0)
    assert told(caplog) == []
    advice.turn_ended(LEADS, 0.0)
    assert told(caplog) == [], "the replicas are still to be asked"
    advice.turn_ended(LEADS._replace(next_at=103.0), 1.0)
    [line] = told(caplog)
    assert "a heartbeat is 2.0 s late; 4.8 s of the lease are left" in line


def test_a_leader_counts_from_its_gain_on_and_a_follower_never(
    advice: Diagnostics, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(starvation, "read_counts", lambda *, late: counted.append("late" if late else "on time"))
    late(advice, monkeypatch, 60.0, LEADS._replace(term=None))
    assert counted == []
    late(advice, monkeypatch, 0.0)
    assert counted == ["on time"] * 2
    late(advice, monkeypatch, 60.0)
    assert counted[2:] == ["on time", "late"], "there were no counts"


def test_a_term_that_ended_while_its_thread_was_late_is_reported(
    advice: Diagnostics, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    late(advice, monkeypatch, 20.0)
    advice.turn_ended(State(), 1.0)
    [line] = told(caplog)
    assert "20.0 s late; 0.0 s of the lease are left" in line


def test_how_late_the_last_request_was_can_be_read(advice: Diagnostics, monkeypatch: pytest.MonkeyPatch) -> None:
    assert late(advice, monkeypatch, 0.25) == 0.25
    assert late(advice, monkeypatch, -1.0) == 0.25, "it was woken early, and has nothing to ask"
    assert late(advice, monkeypatch, 0.0) == 0.0
    follows = LEADS._replace(term=None)
    assert late(advice, monkeypatch, 0.15, follows) == 0.0, "its wait at Redis may end late by the server's timer"
    assert late(advice, monkeypatch, 1.25, follows) == pytest.approx(1.05)
    ended = follows._replace(ended=Ended(Term(1, 0.0), "resigned", owes_release=True))
    assert late(advice, monkeypatch, 60.0, ended) == pytest.approx(1.05), "loss callbacks take their time"


def test_a_twin_is_told_once(advice: Diagnostics, caplog: pytest.LogCaptureFixture) -> None:
    for other in ("web-1:a", "web-1:a", "web-1:b"):
        advice.duplicate(other)
    first, _ = told(caplog)
    assert "'web-1'" in first
    assert "INSTANCE_ID" in first


@pytest.mark.parametrize(
    ("info", "min_replicas", "words"),
    [
        ({}, 0, []),
        ({"maxmemory": "0", "maxmemory_policy": "allkeys-lru", "connected_slaves": "0"}, 0, []),
        ({"maxmemory": "1000", "maxmemory_policy": "noeviction"}, 0, []),
        ({"maxmemory": "1000", "maxmemory_policy": "allkeys-lru"}, 0, ["allkeys-lru"]),
        ({"maxmemory": "1000", "maxmemory_policy": "volatile-ttl", "connected_slaves": "2"}, 0, ["volatile", "(2)"]),
        ({"connected_slaves": "2"}, 0, ["MIN_REPLICAS"]),
        ({"connected_slaves": "2"}, 1, []),
    ],
)
def test_the_server_is_judged(
    advice: Diagnostics, caplog: pytest.LogCaptureFixture, info: dict[str, str], min_replicas: int, words: list[str]
) -> None:
    found = server_warnings(info, min_replicas)
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))
    if min_replicas == CONFIG.min_replicas:
        advice.server(info)
        assert len(told(caplog)) == len(words)


def test_a_slow_answer_is_no_late_heartbeat(
    advice: Diagnostics, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the renewal, which is not counted yet, the replicas are asked in a turn of its own."""
    monkeypatch.setattr(clock, "now", lambda: 100.0)
    advice.turn_ended(LEADS, 1.0)
    advice.turn_began()
    assert advice.delay == 0.0
    monkeypatch.setattr(clock, "now", lambda: 101.6)
    advice.turn_ended(LEADS, 0.0)
    advice.turn_began()
    assert advice.delay == 0.0
    assert told(caplog) == []
