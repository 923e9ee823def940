"""What the operator is told, each thing once."""

from __future__ import annotations

import logging

import pytest

from django_leader import clock
from django_leader.advice import Advice, of_server
from django_leader.config import Config
from django_leader.records import Answer

CONFIG = Config(instance_id="web-1").validate()


@pytest.fixture
def advice() -> Advice:
    return Advice("LEADER_ELECTIONS['default']", CONFIG)


def quarantined(version: str) -> Answer:
    return Answer("quarantined", 1, "", 9.5, 1, "", 0.0, version, 10.0)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("LEADER_ELECTIONS['default']: ") for line in found)
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    caplog.clear()
    return found


def test_an_outage_and_its_end_are_told_once(advice: Advice, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        advice.failed(RuntimeError("refused"), unexpected=False)
    assert advice.outage == "refused"
    [line] = told(caplog)
    assert "refused" in line
    for _ in range(3):
        advice.answered(quarantined("a")._replace(verdict="held"))
    assert advice.outage == ""
    [line] = told(caplog)
    assert "answers again" in line


def test_a_quarantine_is_told_once_and_the_next_not_within_a_minute(
    advice: Advice, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, now in (("a", 0.0), ("a", 99.0), ("b", 100.0), ("c", 159.0), ("d", 160.0)):
        monkeypatch.setattr(clock, "now", lambda now=now: now)
        advice.answered(quarantined(version))
    first, second, _ = told(caplog)
    assert "another 9.5 s (QUARANTINE)" in first
    assert "QUARANTINE" in second


def test_a_late_heartbeat_is_told_once_a_term(advice: Advice, caplog: pytest.LogCaptureFixture) -> None:
    advice.beat(1.4, 5.0, 1)
    assert told(caplog) == []
    for term in (1, 1, 2):
        advice.beat(2.0, 4.8, term)
    first, _ = told(caplog)
    assert "2.0 s late; 4.8 s are left" in first
    assert "GIL" in first


def test_a_twin_is_told_once(advice: Advice, caplog: pytest.LogCaptureFixture) -> None:
    for other in ("web-1:a", "web-1:a", "web-1:b"):
        advice.twin(other)
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
    advice: Advice, caplog: pytest.LogCaptureFixture, info: dict[str, str], min_replicas: int, words: list[str]
) -> None:
    found = of_server(info, min_replicas)
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))
    if min_replicas == CONFIG.min_replicas:
        advice.server(info)
        assert len(told(caplog)) == len(words)
