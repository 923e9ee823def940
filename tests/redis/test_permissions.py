"""An election under the smallest Redis user, which is the one that the README gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually

FAST: dict[str, Any] = {"lock_ttl": 3, "heartbeat_interval": 0.3, "retry_interval": 0.3, "quarantine": 0.3}


def from_readme() -> list[str]:
    """The words of the command."""
    [line] = re.findall(r"^ACL SETUSER leader .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return str(line).split()


@pytest.fixture(params=["with INFO", "without INFO"])
def user(request: pytest.FixtureRequest, own_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of the user, on a server of which nothing else is allowed."""
    words = from_readme() if request.param == "with INFO" else [word for word in from_readme() if word != "+info"]
    own_server.client().execute_command(*words)  # type: ignore[no-untyped-call]
    yield redis.Redis(port=own_server.port, username="leader", password="password")
    denied = {entry["object"] for entry in own_server.client().acl_log()}
    assert denied <= ({"info"} if request.param == "without INFO" else set())


def test_an_election_needs_no_more_than_the_readme_says(user: redis.Redis, own_server: RedisServer) -> None:
    first, second = (LeaderElection(user, Config(instance_id=name, **FAST)) for name in ("first", "second"))
    try:
        first.start()
        assert first.wait_for_leadership(GENEROUS)
        second.start()
        assert second.wait_for_leadership(0) is False
        status = second.status()
        assert status.leader
        assert (status.leader.instance_id, status.candidates) == ("first", 2)
        token = first.fencing_token
        beats: set[Any] = set()
        eventually(lambda: beats.add(first.get_leader_info().last_heartbeat) or len(beats) > 3, "heartbeats")  # type: ignore[func-returns-value,union-attr]
        assert not first.outage
        own_server.client().flushall()
        eventually(lambda: "reclaimed" in [event.kind for event in second.history()], "the leader has its lease back")
        assert first.fencing_token == token
        first.resign()
        assert second.wait_for_leadership(GENEROUS)
        assert second.get_leader_id() == "second"
    finally:
        first.stop()
        second.stop()


def test_the_user_may_touch_nothing_else(own_server: RedisServer) -> None:
    own_server.client().execute_command(*from_readme())  # type: ignore[no-untyped-call]
    user = redis.Redis(port=own_server.port, username="leader", password="password")
    for command in (["GET", "other"], ["FLUSHALL"], ["KEYS", "*"], ["CONFIG", "GET", "*"], ["ACL", "LIST"]):
        with pytest.raises(redis.exceptions.NoPermissionError):
            user.execute_command(*command)  # type: ignore[no-untyped-call]


def test_each_word_of_it_is_needed() -> None:
    words = from_readme()
    sources = "".join(path.read_text() for path in (ROOT / "django_leader").rglob("*.lua"))
    sources += "".join(
        (ROOT / "django_leader" / name).read_text() for name in ("lease.py", "runner.py", "channel.py", "wire.py")
    )
    used = {name.lower() for name in re.findall(r"""["']([A-Z]{3,})["']""", sources)}
    assert {word[1:] for word in words if word.startswith("+")} <= used
