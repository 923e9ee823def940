"""A leader that is frozen between its check and its write, while another one takes over: a real process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from django_leader.protocol.config import Config
from django_leader.runtime.election import LeaderElection
from tests.databases.conftest import DEFAULTS, Database
from tests.databases.models import Report
from tests.support.candidates import Candidate
from tests.support.servers import GENEROUS, RedisServer, eventually

FAST: dict[str, Any] = {"lock_ttl": 1.0, "heartbeat_interval": 0.2, "retry_interval": 0.1, "quarantine": 0}


@pytest.fixture
def frozen(database: Database, some_server: RedisServer) -> Iterator[Candidate]:
    """A leader that has checked, and has stopped before its writes."""
    program = "tests.support.database_writer"
    candidate = Candidate(some_server.port, program=program, database=database.settings, **FAST)
    try:
        candidate.hears("gain")
        candidate.tell("write")
        eventually(lambda: os.waitpid(candidate.pid, os.WUNTRACED | os.WNOHANG)[0], "it has stopped itself")
        yield candidate
    finally:
        candidate.close()


@pytest.mark.parametrize("database", DEFAULTS, indirect=True)
def test_what_a_frozen_leader_writes_late_is_refused(
    database: Database, some_server: RedisServer, request: pytest.FixtureRequest
) -> None:
    reports = Report.objects.using(database.name)
    for name in ("fenced", "unfenced", "instance"):
        reports.create(name=name)
    candidate: Candidate = request.getfixturevalue("frozen")
    election = LeaderElection(redis.Redis(port=some_server.port), Config(**FAST))
    election.start()
    try:
        assert election.wait_for_leadership(GENEROUS)
        token = election.fencing_token
        assert token
        assert reports.fenced_update(token=token, text="new") == 3
        candidate.thaw()
        said = candidate.hears("written")
    finally:
        election.stop()
    assert (said["fenced"], said["unfenced"], said["leads"]) == (0, 1, False)
    assert f"because a later leader has written with {token}; " in said["refused"]
    texts = dict(reports.values_list("name", "text"))
    assert texts == {"fenced": "new", "instance": "new", "unfenced": "late"}
