"""A fresh process on a free election: what it takes until it leads, in milliseconds and in round trips."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from typing import Any

from benchmarks.fleet import Process
from benchmarks.report import SPREAD, Section, spread
from benchmarks.servers import Redis
from benchmarks.stats import summarize

TRIPS_ROUNDS = 5

WHAT = {
    "redis": "django.setup(), and the import of redis and django-redis",
    "own": "import of django_leader, after those",
    "start": "start() to the gain callback",
    "added": "all that django-leader adds to the first leadership",
    "trips": "round trips from start() to the gain callback (number)",
}


def measure(rounds: int) -> Section:
    """Fresh processes, one after the other, each on an election of its own on one server."""
    section = Section(
        "Start-up of a fresh process on a free election (ms)",
        "python -m benchmarks startup",
        "The round trips are counted in runs of their own, by a relay between the process and the server.",
        ("", *SPREAD),
    )
    taken: dict[str, list[float]] = {name: [] for name in WHAT}
    with contextlib.closing(Redis()) as server:
        _run(server.address, "warm-up")  # the server learns the scripts
        for index in range(rounds):
            for name, value in _run(server.address, f"timed-{index}").items():
                if name in taken:
                    taken[name].append(value)
        for index in range(TRIPS_ROUNDS):
            with contextlib.closing(Relay(server.port)) as relay:
                told = _run(f"redis://127.0.0.1:{relay.port}/0", f"counted-{index}")
                taken["trips"].append(sum(told["started"] <= at <= told["at"] for at in relay.requests))
    section.rows = [(label, *spread(summarize(taken[name]))) for name, label in WHAT.items()]
    section.values = {f"startup {name}": summarize(times).median for name, times in taken.items()}
    return section


def _run(address: str, key: str) -> dict[str, Any]:
    with contextlib.closing(Process("benchmarks.processes", "fresh", address, f"benchmark:{key}")) as process:
        return process.hear()


class Relay:
    """Passes everything on, and notes when a client sent something."""

    def __init__(self, to: int) -> None:
        self._to, self.requests = to, list[float]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._end, self._ended = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        others: dict[Any, socket.socket] = {}
        clients: set[Any] = set()
        while True:
            ready, _, _ = select.select([self._end, self._listener, *others], [], [])
            if self._end in ready:
                break
            for sock in ready:
                if sock is self._listener:
                    client, _ = self._listener.accept()
                    server = socket.create_connection(("127.0.0.1", self._to))
                    others.update({client: server, server: client})
                    clients.add(client)
                elif sock in others:
                    self._pass_on(sock, others, client=sock in clients)
        for sock in others:
            sock.close()

    def _pass_on(self, sock: socket.socket, others: dict[Any, socket.socket], *, client: bool) -> None:
        at, data = time.monotonic(), b""
        with contextlib.suppress(OSError):
            data = sock.recv(65536)
        if client and data:
            self.requests.append(at)
        with contextlib.suppress(OSError):
            if data:
                others[sock].sendall(data)
                return
        for one in (others.pop(sock), sock):
            others.pop(one, None)
            one.close()

    def close(self) -> None:
        """Ends it."""
        os.close(self._ended)
        self._thread.join()
        self._listener.close()
        os.close(self._end)
