"""A claim of a slot that reaches Redis long after it was sent: a real leader, with a proxy before its server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.chaos.proxy import Network, Proxy
from tests.support.candidates import Candidate
from tests.support.servers import RedisServer, eventually

FAST = {"lock_ttl": 60.0, "heartbeat_interval": 0.4, "retry_interval": 0.1, "quarantine": 0, "job": True}
RUNS = "{maplefile:leader:lock}:runs"
CLAIM = b"\r\nskip\r\n"
"""Only a claim has the word for what becomes of a slot that is in doubt."""


@pytest.fixture
def proxy(some_server: RedisServer) -> Iterator[Proxy]:
    """A way to an empty server."""
    some_server.client().flushall()
    network = Network()
    made = Proxy(network, lambda: some_server.port)
    yield made
    made.close()
    network.close()


@pytest.fixture
def candidate() -> Iterator[Callable[..., Candidate]]:
    """Makes candidates, and ends them."""
    made: list[Candidate] = []

    def make(port: int, **options: Any) -> Candidate:
        made.append(Candidate(port, **{**FAST, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("until", ["later claims", "another term"])
def test_j07_a_claim_that_comes_late_starts_nothing_and_writes_nothing(
    candidate: Callable[..., Candidate], proxy: Proxy, some_server: RedisServer, until: str
) -> None:
    first = candidate(proxy.port)
    runs = [first.hears("run"), first.hears("run")]
    proxy.hold_one(CLAIM)
    eventually(lambda: proxy.holds_one, "a claim was sent")
    last = first
    if until == "another term":
        last = candidate(some_server.port)
        first.tell("stop")
    runs += [last.hears("run") for _ in range(3)]
    proxy.heal()
    runs += [last.hears("run") for _ in range(3)]
    runs += [said for one in {first, last} for said in one.pending() if said["event"] == "run"]
    assert max(Counter(said["slot"] for said in runs).values()) == 1
    started = {said["slot"] * 1000 for said in runs}
    client: Any = some_server.client()
    told = [fields for _, fields in client.xrange(RUNS)]
    assert {fields[b"outcome"] for fields in told}.isdisjoint({b"in-doubt", b"unreported"}), "no start without a run"
    assert {float(fields[b"slot"]) for fields in told if fields[b"outcome"] == b"ok"} <= started
