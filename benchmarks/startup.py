"""A fresh process: what our app adds to ``django.setup()``, and what it takes until it leads on a free election.

All of them find compiled modules, as after an installation, whatever this checkout and the environment have.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.fleet import Process
from benchmarks.report import SPREAD, Section, spread
from benchmarks.servers import Redis
from benchmarks.stats import number, summarize

TRIPS_ROUNDS = 5
HOW = {"command": "a management command", "server": "a server"}

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
    with contextlib.closing(Redis()) as server, _compiled() as environment:
        _run(environment, "fresh", server.address, "benchmark:warm-up")  # the server learns the scripts
        for index in range(rounds):
            for name, value in _run(environment, "fresh", server.address, f"benchmark:timed-{index}").items():
                if name in taken:
                    taken[name].append(value)
        for index in range(TRIPS_ROUNDS):
            with contextlib.closing(Relay(server.port)) as relay:
                address = f"redis://127.0.0.1:{relay.port}/0"
                told = _run(environment, "fresh", address, f"benchmark:counted-{index}")
                taken["trips"].append(sum(told["started"] <= at <= told["at"] for at in relay.requests))
    section.rows = [(label, *spread(summarize(taken[name]))) for name, label in WHAT.items()]
    section.values = {f"startup {name}": summarize(times).median for name, times in taken.items()}
    return section


def measure_setup(rounds: int) -> Section:
    """Fresh processes in turns: with the app and without it, in a management command and in a server."""
    section = Section(
        "django.setup() of a small project (ms)",
        "python -m benchmarks startup",
        "Fresh processes, in turns, with contenttypes, auth and staticfiles, and a cache of django-redis that nobody"
        " but us looks at, so that whatever we import is ours. The command is `migrate`, where no election starts; the"
        " server calls `get_wsgi_application()`, where one does. An audit hook tells which thread connects first.",
        ("", *SPREAD),
    )
    kinds = [(how, apps) for how in HOW for apps in ((), ("django_leader",))]
    taken: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = {kind: [] for kind in kinds}
    with contextlib.closing(Redis()) as server, _compiled() as environment:
        for index in range(1 + rounds):  # the first compiles
            for how, apps in kinds:
                key = f"benchmark:setup-{how}-{index}"
                taken[how, apps].append(_run(environment, "project", how, server.address, key, *apps))
    for how, label in HOW.items():
        without, with_us = (
            summarize([told["setup"] for told in taken[how, apps][1:]]) for apps in ((), ("django_leader",))
        )
        section.rows += [(label, *spread(without)), (f"{label}, with django_leader", *spread(with_us))]
        more = with_us.median - without.median
        section.rows.append((f"{label}: difference of the medians", number(more), "", "", "", ""))
        section.values[f"setup {how}"] = more
    servers = taken["server", ("django_leader",)][1:]
    here = sum(told["here"] for told in servers)
    section.rows.append((f"first connects in the thread of the setup, of {len(servers)}", str(here), "", "", "", ""))
    section.values["setup connects"] = here
    return section


@contextlib.contextmanager
def _compiled() -> Iterator[dict[str, str]]:
    """Return the environment of processes that keep compiled modules in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="django-leader-bench-") as folder:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        yield kept | {"PYTHONPYCACHEPREFIX": folder}


def _run(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    with contextlib.closing(Process("benchmarks.processes", *arguments, environment=environment)) as process:
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
        """End it."""
        os.close(self._ended)
        self._thread.join()
        self._listener.close()
        os.close(self._end)
