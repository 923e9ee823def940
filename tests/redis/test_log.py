"""What the log says of terms: when each began and ended, of whom, and who leads now."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection
from django_leader.system.log import log
from tests.support.candidates import Candidate
from tests.support.servers import GENEROUS, RedisServer, eventually

FAST: dict[str, Any] = {"lock_ttl": 6, "heartbeat_interval": 0.3, "retry_interval": 0.3, "quarantine": 0}
Make = Callable[[str], LeaderElection]


@pytest.fixture
def make(some_server: RedisServer, caplog: pytest.LogCaptureFixture) -> Iterator[Make]:
    made: list[LeaderElection] = []
    caplog.set_level(logging.INFO, "django_leader")

    def make(name: str) -> LeaderElection:
        client = redis.Redis(port=some_server.port)
        made.append(LeaderElection(client, Config(instance_id=name, **FAST), name="reports"))
        made[-1].start()
        return made[-1]

    yield make
    for election in made:
        election.stop()


def records(caplog: pytest.LogCaptureFixture, part: str) -> list[Any]:
    return [record for record in caplog.records if part in record.getMessage()]


def test_a_logged_loss_carries_the_instant_of_the_loss(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Not the instant at which it is logged."""
    first = make("web-1")
    assert first.wait_for_leadership(GENEROUS)
    token = first.fencing_token
    second = make("web-2")
    eventually(lambda: records(caplog, "web-1 leads"))
    first.stop()
    assert second.wait_for_leadership(GENEROUS)
    [come] = eventually(lambda: records(caplog, "(web-2, since"))
    [gone] = records(caplog, "lost leadership")
    assert gone.at < come.at, "and so nobody sees two leaders"
    assert (gone.election, gone.instance, gone.token, gone.reason) == ("reports", "web-1", token, "resigned")
    assert (come.election, come.instance, come.token) == ("reports", "web-2", second.fencing_token)
    told = re.fullmatch(
        r"LEADER_ELECTIONS\['reports'\]: lost leadership: resigned \(web-1, token \d+, at (.*) UTC\)", gone.getMessage()
    )
    assert told
    at = datetime.fromisoformat(told[1]).replace(tzinfo=timezone.utc)
    assert timedelta(0) <= gone.at - at < timedelta(milliseconds=1)


def test_a_term_that_has_run_out_was_lost_at_its_deadline(own_server: RedisServer) -> None:
    candidate = Candidate(own_server.port, instance_id="web-1", **{**FAST, "lock_ttl": 1})
    try:
        candidate.hears("gain")
        own_server.freeze()
        said = eventually(
            lambda: next(
                (one for one in candidate.pending() if "lost leadership: expired" in one.get("text", "")), None
            )
        )
        assert re.search(r"\(web-1, token \d+, at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UTC\)", said["text"])
    finally:
        own_server.thaw()
        candidate.close()


def test_followers_tell_who_leads(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    first = make("web-1")
    assert first.wait_for_leadership(GENEROUS)
    second = make("web-2")
    third = make("web-3")

    def told(text: str, count: int) -> None:
        text = f"LEADER_ELECTIONS['reports']: {text}"
        eventually(lambda: [record.getMessage() for record in caplog.records].count(text) == count, text)

    told("web-1 leads", 2)
    first.stop()
    eventually(lambda: second.is_leader() or third.is_leader())
    name = "web-2" if second.is_leader() else "web-3"
    told(f"{name} leads, after web-1", 1)
    [record] = records(caplog, "leads, after")
    assert (record.election, record.instance, record.leader, record.previous, record.levelname) == (
        "reports", "web-3" if name == "web-2" else "web-2", name, "web-1", "INFO",
    )  # fmt: skip


def test_a_newcomer_is_not_told_that_a_leader_leads_which_has_left(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """It finds the hold of a leader that has stopped, and that may be dead for long."""
    first = make("web-1")
    assert first.wait_for_leadership(GENEROUS)
    first.stop(hold=60)
    second, changes = make("web-2"), list[Any]()
    second.listen(lambda token: None, lambda token, reason: None, lambda *names: changes.append(names))
    eventually(lambda: second.hold_left, "it has asked Redis")
    assert second.wait_for_leadership(0) is False
    second.stop()
    assert records(caplog, "web-1 leads") == []
    assert changes == []


def test_what_others_call_themselves_is_shown_in_one_line(
    make: Make, caplog: pytest.LogCaptureFixture, some_server: RedisServer
) -> None:
    some_server.client().set("maplefile:leader:lock", "a\x1b[31m\u202eb\nERROR c", px=60_000)
    follower = make("web-1")
    changes: list[Any] = []
    follower.listen(lambda token: None, lambda token, reason: None, lambda *names: changes.append(names))
    [record] = eventually(lambda: records(caplog, " leads"))
    assert record.getMessage() == "LEADER_ELECTIONS['reports']: a[31mbERROR c leads"
    assert changes in ([], [("", "a[31mbERROR c")])


def test_no_line_of_the_log_has_what_cannot_be_shown(caplog: pytest.LogCaptureFixture) -> None:
    log(logging.WARNING, "%s: %s (%.1f s)", "a\x1b[31m", ValueError("b\r\nc\u2066"), 1.0)
    assert caplog.messages == ["a[31m: bc (1.0 s)"]
