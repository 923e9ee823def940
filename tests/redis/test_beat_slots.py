"""The slots of Celery beat's entries, at a real server: what is claimed, and what the next term makes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from django_leader import Config, LeaderElection, RedisUnavailable
from django_leader.protocol.slots import slot_keys
from django_leader.runtime.beat import BeatSlots, Sendable, recorded_as
from django_leader.runtime.local import Local
from tests.support.servers import GENEROUS, RedisServer, eventually

FAST: dict[str, Any] = {"lock_ttl": 3.0, "heartbeat_interval": 0.4, "retry_interval": 0.1, "quarantine": 0}
LONG_AGO = 1_000_000_000_000
Elect = Callable[..., BeatSlots]


@pytest.fixture
def elect(own_server: RedisServer) -> Iterator[Elect]:
    """Has another process lead, and gives its slots. The last one has ended its term."""
    made: list[tuple[LeaderElection, BeatSlots]] = []

    def elect(in_doubt: Any = "rerun", client: Any = None) -> BeatSlots:
        for election, _ in made:
            election.stop()
        election = LeaderElection(client or redis.Redis(port=own_server.port), Config(**FAST))
        election.start()
        assert election.wait_for_leadership(GENEROUS)
        access = eventually(election.access, "it has what claims need")
        made.append((election, BeatSlots(access, in_doubt)))
        return made[-1][1]

    yield elect
    for election, slots in made:
        election.stop()
        slots.close()


def verdict(slots: BeatSlots, slot: int, *, before: int = 0, name: str = "tick") -> str:
    decided = slots.claim(name, slot, before)
    return decided.decision.verdict if decided else ""


def now() -> int:
    return time.time_ns() // 1_000_000


def send(slots: BeatSlots, slot: int, name: str = "tick") -> None:
    """Claim a slot, and mark it as sent."""
    decided = slots.claim(name, slot, 0)
    assert decided
    assert decided.decision.verdict == "run"
    slots.sent(name, Sendable(slot, decided.claim.claim_id), 0.1)


def certain(slots: BeatSlots) -> int:
    """Claim a slot of which it is certain that no earlier term has started it: one that is later than its begin."""

    def claim() -> int:
        slot = now()
        return slot if verdict(slots, slot) == "run" else 0

    return int(eventually(claim, every=0.1))


def outcomes(server: RedisServer) -> list[tuple[str, int]]:
    client: Any = server.client()
    entries = client.xrange(slot_keys(Config().keys)[1])
    return [(fields[b"outcome"].decode(), int(fields[b"slot"])) for _, fields in entries]


def test_j01_a_slot_is_claimed_once(elect: Elect) -> None:
    slots = elect()
    assert verdict(slots, LONG_AGO) == "run"
    assert verdict(slots, LONG_AGO) == "done"
    assert verdict(slots, LONG_AGO - 1) == "done"
    assert verdict(slots, LONG_AGO + 1) == "run"


def test_j02_a_term_that_is_over_claims_nothing(elect: Elect) -> None:
    former = elect()
    elect()
    assert former.claim("tick", LONG_AGO, 0) is None
    assert not former.is_current()


def test_j03_a_slot_that_is_ahead_of_the_server_is_early_until_then(elect: Elect) -> None:
    slots = elect()
    slot = now() + 1500
    assert verdict(slots, slot) == "early"
    assert eventually(lambda: (found := verdict(slots, slot)) != "early" and found) == "run"
    assert now() >= slot - 1001


def test_j04_what_came_before_is_told(elect: Elect, own_server: RedisServer) -> None:
    slots = elect("skip")
    first = certain(slots)
    slot = eventually(lambda: (at := now()) > first + 9 and at)
    assert verdict(slots, slot, before=slot - 1) == "run"
    assert outcomes(own_server)[-1] == ("missed", slot - 1)


def test_j05_what_was_not_marked_is_granted_again_with_its_slot(elect: Elect) -> None:
    assert verdict(elect(), LONG_AGO) == "run"
    following = elect()
    record = following.records(["tick"])["tick"]
    assert record
    assert (record.outcome, record.last) == ("-", LONG_AGO)
    decided = following.claim("tick", LONG_AGO + 9000, 0)
    assert decided
    assert (decided.decision.verdict, decided.decision.slot) == ("rerun", LONG_AGO)
    following.sent("tick", Sendable(LONG_AGO, decided.claim.claim_id), 0.0)
    assert verdict(following, LONG_AGO + 9000) == "run"


def test_j05_what_was_not_marked_is_skipped_if_so_wanted(elect: Elect, own_server: RedisServer) -> None:
    slot = certain(elect("skip"))
    assert verdict(elect("skip"), slot) == "done"
    assert ("in-doubt", slot) in outcomes(own_server)


def test_j06_after_a_loss_of_data_the_term_knows_its_own_slots(elect: Elect, own_server: RedisServer) -> None:
    slots = elect()
    send(slots, now() - 10)
    slot = now()
    send(slots, slot)
    own_server.client().flushall()
    found = eventually(lambda: slots.claim("tick", slot, 0), "the leader has reclaimed its term")
    assert found.decision.verdict == "done"
    assert verdict(slots, slot + 1) == "run"


def test_j06_after_a_loss_of_data_a_new_term_grants_a_slot_again(elect: Elect, own_server: RedisServer) -> None:
    slot = now()
    send(elect(), slot)
    slots = elect()
    own_server.client().delete(*slot_keys(Config().keys))
    assert verdict(slots, slot) == "run"


def test_j07_a_claim_without_an_answer_keeps_its_slot(elect: Elect, own_server: RedisServer) -> None:
    slots = elect()
    send(slots, LONG_AGO)
    own_server.freeze()
    with pytest.raises(RedisUnavailable):
        slots.claim("tick", LONG_AGO + 1000, 0)
    own_server.thaw()
    found: Any = eventually(lambda: not slots.is_current() or slots.claim("tick", LONG_AGO + 2000, 0))
    if found is not True:  # a slow machine may have lost its lease meanwhile
        assert (found.decision.verdict, found.decision.slot) == ("run", LONG_AGO + 1000)


def test_a_mark_that_redis_did_not_get_is_sent_later(elect: Elect, own_server: RedisServer) -> None:
    slots = elect()
    decided = slots.claim("tick", LONG_AGO, 0)
    assert decided
    slots._lease.channel.drop()
    own_server.freeze()
    slots.sent("tick", Sendable(LONG_AGO, decided.claim.claim_id), 0.0)
    own_server.thaw()
    slots.close()
    assert ("ok", LONG_AGO) in outcomes(own_server)


def test_names_of_any_length_are_recorded(elect: Elect) -> None:
    slots = elect()
    long, other = "x" * 500, "x" * 499 + "y"
    for name in ("", long, other, "naïve \n name"):
        send(slots, LONG_AGO, name)
    assert {one.last for one in slots.records(["", long, other]).values() if one} == {LONG_AGO}
    assert len({recorded_as(name) for name in ("", long, other)}) == 3
    assert recorded_as("x" * 200) == "x" * 200


def test_records_are_read_in_portions(elect: Elect) -> None:
    slots = elect()
    send(slots, LONG_AGO, "entry 1100")
    found = slots.records([f"entry {number}" for number in range(1200)])
    assert [name for name, record in found.items() if record] == ["entry 1100"]
    assert len(found) == 1200


def test_the_clock_of_the_server_is_known(elect: Elect) -> None:
    server_now = elect().server_now()
    assert server_now
    assert abs(server_now - now()) < 60_000


def test_within_one_process_there_are_no_records(elect: Elect) -> None:
    slots = elect(client=Local())
    assert slots.records(["tick"]) == {"tick": None}
    send(slots, now())
