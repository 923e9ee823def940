"""Real processes and real servers, and what happens to them in production at night."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_leader.system.clock import now
from tests.support.candidates import Candidate
from tests.support.servers import RedisServer, eventually

TTL = 3.0  # several times what this kind of machine may stall
FAST = {"lock_ttl": TTL, "heartbeat_interval": 0.4, "retry_interval": 0.3, "quarantine": 0}


@pytest.fixture
def candidate(own_server: RedisServer) -> Iterator[Callable[..., Candidate]]:
    """Makes candidates, and ends them."""
    made: list[Candidate] = []

    def make(instance_id: str = "", **options: Any) -> Candidate:
        made.append(Candidate(own_server.port, **{**FAST, "instance_id": instance_id, **options}))
        return made[-1]

    yield make
    for process in made:
        process.close()


Make = Callable[..., Candidate]


def leader_and_follower(candidate: Make, **options: Any) -> tuple[Candidate, Candidate]:
    first = candidate("first", **options)
    first.hears("gain")
    second = candidate("second", **options)
    second.hears("change", current="first")
    return first, second


def kinds(server: RedisServer) -> list[str]:
    """What the history says, the oldest first."""
    entries: Any = server.client().xrange("{maplefile:leader:lock}:events")
    return [values[b"kind"].decode() for _, values in entries]


def test_a_graceful_stop_hands_over_at_once(candidate: Make, own_server: RedisServer) -> None:
    first, second = leader_and_follower(candidate)
    first.tell("stop")
    assert first.hears("loss")["leads"] is False
    second.hears("gain")
    first.hears("stopped", leads=False)
    assert kinds(own_server) == ["elected", "resigned", "elected"], "the next leader did not wait for the lease to end"


def test_s20_the_end_of_the_interpreter_hands_over(candidate: Make, own_server: RedisServer) -> None:
    first, second = leader_and_follower(candidate)
    first.tell("exit")
    second.hears("gain")
    assert first.process.wait() == 0
    assert kinds(own_server) == ["elected", "resigned", "elected"]


def test_after_kill_9_another_leads_when_the_lease_ends(candidate: Make, own_server: RedisServer) -> None:
    """As on another host, where nobody sees it die."""
    first, second = leader_and_follower(candidate, same_host_takeover=False)
    left = first.verdict()
    first.kill()
    gain = second.hears("gain")
    assert gain["token"] > left["token"]
    assert gain["at"] > left["at"] + left["left"]
    assert kinds(own_server) == ["elected", "taken-over"]


def test_s01_a_frozen_leader_does_not_lead_when_it_wakes(candidate: Make) -> None:
    first, second = leader_and_follower(candidate)
    first.freeze()
    gain = second.hears("gain")
    first.thaw()
    assert first.verdict()["leads"] is False
    assert first.hears("loss")["reason"] in ("expired", "taken")
    verdict = second.verdict()
    assert (verdict["leads"], verdict["token"]) == (True, gain["token"])
    first.hears("change", current="second")


def test_a_server_that_restarts_empty_is_campaigned_at_again(candidate: Make, own_server: RedisServer) -> None:
    first, second = leader_and_follower(candidate)
    token = first.verdict()["token"]
    own_server.stop()
    first.hears("loss", reason="expired")
    own_server.start()

    def gains() -> list[dict[str, Any]]:
        said = [*first.pending(), *second.pending()]
        return [event for event in said if event["event"] == "gain" and event["token"] != token]

    gained = eventually(gains, "one of them leads again")
    assert gained[0]["token"] > token, "S14: the token does not go back, though the server has forgotten it"


def test_s09_the_loss_is_announced_while_the_server_is_frozen(candidate: Make, own_server: RedisServer) -> None:
    first = candidate("first")
    first.hears("gain")
    left = first.verdict()
    own_server.freeze()
    loss = first.hears("loss", reason="expired")
    assert loss["at"] < left["at"] + TTL + 5.0, "long before the server answers, which it never does"
    assert loss["leads"] is False
    own_server.thaw()
    first.hears("gain")


def test_a_server_that_is_away_at_the_start_is_found_later(candidate: Make, own_server: RedisServer) -> None:
    own_server.stop()
    first = candidate("first")
    assert "is unreachable" in first.hears("log", level="WARNING")["text"]
    assert first.verdict()["leads"] is False
    own_server.start()
    first.hears("gain")
    outages = [said for said in first.pending() if said["event"] == "log" and "is unreachable" in said["text"]]
    assert outages == [], "one line for an outage, not one for each try"


def test_s07_two_processes_with_one_instance_id_exclude_each_other_and_are_warned(candidate: Make) -> None:
    first = candidate("twin")
    first.hears("gain")
    second = candidate("twin")
    for process in (first, second):
        assert "INSTANCE_ID" in process.hears("log", level="WARNING")["text"]
    assert [first.verdict()["leads"], second.verdict()["leads"]] == [True, False]
    first.tell("stop")
    second.hears("gain")


def test_s16_a_gain_callback_that_blocks_delays_neither_heartbeats_nor_the_loss(candidate: Make) -> None:
    first = candidate("first", block="gain")
    token = first.hears("gain")["token"]
    second = candidate("second")
    second.hears("change", current="first")
    start = now()
    eventually(lambda: now() > start + 2 * TTL)
    assert first.verdict()["token"] == token, "the term went on while the callback did"
    first.tell("stop")
    first.hears("loss", reason="resigned")
    second.hears("gain")


def test_s08_a_loss_callback_that_blocks_keeps_the_lease_until_it_expires(candidate: Make) -> None:
    first = candidate("first", block="loss")
    first.hears("gain")
    second = candidate("second")
    second.hears("change", current="first")
    left = first.verdict()
    first.tell("resign")
    assert first.hears("loss")["leads"] is False
    assert second.hears("gain")["at"] > left["at"] + left["left"] - 0.1


def test_a_gain_callback_that_raises_ends_the_term(candidate: Make) -> None:
    first = candidate("first", fail="gain")
    first.hears("gain")
    assert first.hears("loss", reason="callback-failed")["leads"] is False
    second = candidate("second")
    second.hears("gain")


@pytest.mark.parametrize("instance_id", ["", "fixed"])
def test_s19_a_forked_child_is_never_the_leader_and_takes_nothing_away(candidate: Make, instance_id: str) -> None:
    first = candidate(instance_id)
    token = first.hears("gain")["token"]
    name = instance_id or first.hears("ready")["instance_id"]
    first.tell("fork")
    child = first.hears("child")
    assert (child["leads"], child["running"]) == (False, False)
    assert (child["instance_id"] == name) == bool(instance_id), "a generated identity is not shared"
    assert first.hears("child-campaigned")["leads"] is False
    assert first.hears("child-over")["leads"] is True
    assert first.verdict()["token"] == token
    start = now()
    eventually(lambda: now() > start + TTL)
    assert first.verdict()["token"] == token, "the child's end released nothing and closed nothing of its parent"


def test_a_stopped_candidate_can_start_again(candidate: Make) -> None:
    first = candidate("first")
    token = first.hears("gain")["token"]
    first.tell("stop")
    first.hears("stopped")
    first.tell("start")
    assert first.hears("gain")["token"] > token


def test_a_frozen_follower_does_not_delay_a_hand_over(candidate: Make, own_server: RedisServer) -> None:
    """Although it is at the head of the queue of those that wait at Redis."""
    first = candidate("first", lock_ttl=60.0)
    first.hears("gain")
    admin = own_server.client()
    frozen = candidate("second", lock_ttl=60.0, retry_interval=60.0)
    frozen.hears("change", current="first")
    eventually(lambda: admin.info("clients")["blocked_clients"] == 1, "the follower waits")
    frozen.freeze()
    third = candidate("third", lock_ttl=60.0, retry_interval=60.0)
    third.hears("change", current="first")
    eventually(lambda: admin.info("clients")["blocked_clients"] == 2, "another one waits behind it")
    first.tell("stop")
    third.hears("gain")
    assert "taken-over" not in kinds(own_server), "it was handed over, and not taken"
