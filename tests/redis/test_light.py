"""The light candidates of the benchmark lead, hand over and poll at a real server."""

from __future__ import annotations

import contextlib
from typing import Any

from benchmarks.fleet import Process
from tests.support.servers import RedisServer, eventually


def test_light_candidates_hand_over_and_poll(some_server: RedisServer) -> None:
    client = some_server.client()

    def calls(command: str) -> int:
        counted: dict[str, Any] = client.info("commandstats")
        return int(counted.get(f"cmdstat_{command}", {"calls": 0})["calls"])

    with contextlib.closing(Process("benchmarks.light", some_server.url, "2")) as process:
        assert process.hear() == {"ready": 2}
        process.tell("start 0")
        assert process.hear()["gained"] == 0
        waits = calls("blpop")
        process.tell("start 1")
        eventually(lambda: calls("blpop") >= waits + 2, "the follower has polled, and waits again")
        process.tell("stop 0")
        heard = [process.hear(), process.hear()]
        assert {name: message[name] for message in heard for name in message if name != "at"} == {
            "gained": 1,
            "stopped": 0,
        }
        process.tell("stop 1")
        assert process.hear()["stopped"] == 1
