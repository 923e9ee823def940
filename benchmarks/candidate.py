"""A process of the fleet: ``python -m benchmarks.candidate SYSTEM ADDRESS COUNT OPTIONS``.

It has COUNT candidates of one system, does what lines tell it, and answers in lines of JSON. ``at`` is an instant of
CLOCK_MONOTONIC, which all processes of one machine share.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
import timeit
from collections.abc import Callable
from functools import partial

from benchmarks.peers import RETRY, SYSTEMS, Peer
from benchmarks.processes import say

STACK = 256 * 1024
"""Bytes for each thread where many share a process."""


def main(name: str, address: str, count: int, options: str) -> None:
    """Until there are no more lines."""
    system = SYSTEMS[name]
    if count > 1:
        threading.stack_size(STACK)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    more = {**dict(system.options), **json.loads(options)}
    make = system.load()
    peers = [make(address, partial(_gained, index), **more) for index in range(count)]
    say(ready=count)
    for line in sys.stdin:
        word, _, number = line.strip().partition(" ")
        {"start": _start, "stop": _stop, "rest": _rest, "time": _time, "usage": _usage}[word](peers, int(number))
    os._exit(0)  # without a release: the server ends, too


def _gained(index: int) -> None:
    say(gained=index, at=time.monotonic())


def _start(peers: list[Peer], index: int) -> None:
    peers[index].start()


def _rest(peers: list[Peer], first: int) -> None:
    for peer in peers[first:]:
        peer.start()
        if len(peers) > 1:
            time.sleep(RETRY / len(peers))  # who polls does so at a time of its own, as in a real fleet
    say(started=len(peers) - first)


def _stop(peers: list[Peer], index: int) -> None:
    began = time.monotonic()
    peers[index].stop()
    say(stopped=index, at=began)


def _usage(peers: list[Peer], _: int) -> None:
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    say(cpu=time.process_time(), switches=switches)


def _time(peers: list[Peer], loops: int) -> None:
    """Nanoseconds for a call of the check, and of the least that a deadline needs, in turns: the best of several."""
    from benchmarks.limits import bare, guarded

    functions: dict[str, Callable[[], bool]] = {"check": peers[0].leads, "bare": bare, "guarded": guarded}
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(5):
        for name, function in functions.items():
            number = loops if name == "check" else 20_000
            best[name] = min(best[name], timeit.timeit(function, number=number) / number * 1e9)
    say(answer=int(peers[0].leads()), **best)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
