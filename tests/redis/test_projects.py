"""Two projects that share the keys of an election, and are told."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection
from tests.support.servers import GENEROUS, RedisServer, eventually

FAST: dict[str, Any] = {"lock_ttl": 3, "heartbeat_interval": 0.2, "retry_interval": 0.2, "quarantine": 0}
Make = Callable[..., LeaderElection]


@pytest.fixture
def make(some_server: RedisServer) -> Iterator[Make]:
    made: list[LeaderElection] = []

    def make(name: str, *projects: str, **options: Any) -> LeaderElection:
        config = Config(instance_id=name, projects=projects, **{**FAST, **options})
        made.append(LeaderElection(redis.Redis(port=some_server.port), config, name=name))
        return made[-1]

    yield make
    for election in made:
        election.stop()


def warned(caplog: pytest.LogCaptureFixture, election: LeaderElection) -> list[str]:
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [text for text in said if text.startswith(election.label) and "another project" in text]


def lead(election: LeaderElection) -> None:
    election.start()
    assert election.wait_for_leadership(GENEROUS)


def follow(election: LeaderElection, caplog: pytest.LogCaptureFixture) -> None:
    """Let it be a candidate until it has asked who leads."""
    election.start()
    eventually(
        lambda: (
            election._candidacy and not election.outage and election._candidacy._worker.session.errands._compared != ""
        )
    )


def test_both_are_told_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    shop, blog, again = make("shop-1", "aaaa0000"), make("blog-1", "bbbb0000"), make("blog-2", "bbbb0000")
    lead(shop)
    for other in (blog, again):
        follow(other, caplog)
        eventually(lambda: warned(caplog, other), "the follower is told")  # noqa: B023
    eventually(lambda: warned(caplog, shop), "the leader is told")
    eventually(lambda: (shop.resign(), blog.is_leader() or again.is_leader())[1], "another one is the faster")
    [text] = warned(caplog, blog)
    assert "'aaaa0000'" in text
    assert "ours is 'bbbb0000'" in text
    assert "'maplefile:leader:lock'" in text
    assert "REDIS_KEY_NAME" in text
    assert len(warned(caplog, again)) == len(warned(caplog, shop)) == 1


@pytest.mark.parametrize(
    ("leader", "follower"),
    [(["a"], ["a"]), ([], ["a"]), (["a"], []), (["old"], ["new", "old"])],
)
def test_one_project_or_one_that_is_not_known_is_no_warning(
    make: Make, caplog: pytest.LogCaptureFixture, leader: list[str], follower: list[str]
) -> None:
    first, second = make("first", *leader), make("second", *follower)
    lead(first)
    second.start()
    eventually(lambda: second._candidacy and second._candidacy.shared.state.watch.observation)
    if follower:
        follow(second, caplog)
    eventually(lambda: (first.resign(), second.is_leader())[1], "it resigns until the other one is the faster")
    assert warned(caplog, first) == warned(caplog, second) == []


def test_a_leader_of_the_last_release_names_no_project(
    make: Make, caplog: pytest.LogCaptureFixture, some_server: RedisServer
) -> None:
    """Followers compare their project with that of the next leader."""
    old, shop, blog = make("old"), make("shop", "aaaa0000"), make("blog", "bbbb0000")
    lead(old)
    assert json.loads(some_server.client().get("maplefile:leader:info"))["project"] == ""  # type: ignore[arg-type]
    follow(blog, caplog)
    follow(shop, caplog)
    assert warned(caplog, blog) == warned(caplog, shop) == []
    old.stop()
    eventually(lambda: warned(caplog, blog) and warned(caplog, shop), "who leads, and who follows")


def test_a_message_that_says_no_project_or_our_own_is_no_warning(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    shop = make("shop", "aaaa0000")
    lead(shop)
    assert shop._candidacy
    for message in ({"project": 5}, {"project": "aaaa0000"}, {"project": None}):
        shop._candidacy._worker.session.errands.received(message)
    assert warned(caplog, shop) == []
    for project in ("x" * 1000 + "\x1b[31m", "\x1b[31m"):
        shop._candidacy._worker.session.errands.received({"project": project})
    [text] = warned(caplog, shop)
    assert "x" * 9 not in text
    assert "\x1b" not in text
