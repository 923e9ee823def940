"""Runs Django in one way, and looks at it from outside: at its processes, and at what is in Redis."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from django_leader import Config, LeaderElection
from testproject.embedded import die_with_parent
from tests.process.servers.ways import PROJECT, Command, Way
from tests.support.candidates import ROOT
from tests.support.servers import RedisServer, eventually, free_port, program

AT_A_TIME = 4
BOUND = 20.0
"""Seconds within which another one must lead: many times what it takes, and a third of the lease."""
TRIES = 3
"""How often the exit status without us is asked for until it is that with us. Celery beat saves its schedule in a
signal handler, in the middle of whatever that interrupts. Now and then this fails and ends it with status 1."""
DURATIONS: dict[str, Any] = {"lock_ttl": 60.0, "heartbeat_interval": 1.0, "retry_interval": 1.0, "quarantine": 0}
LOCK, INFO = "maplefile:leader:lock", "maplefile:leader:info"


@dataclass
class Row:
    """What was found out about one way. Durations are milliseconds until another process led."""

    way: Command
    candidates: str = ""
    stopped: float | None = None
    """From the signal to the main process, or to all."""
    killed: float | None = None
    """From the kill -9 of the leader."""
    main_killed: float | None = None
    """From the kill -9 of the main process, where it is not the leader."""
    status: int | None = None
    status_without_us: int | None = None
    problems: list[str] = field(default_factory=list)


def missing(way: Command) -> list[str]:
    """The distributions that ``way`` needs and that are not installed."""
    installed = {name.lower() for found in metadata.distributions() if (name := found.metadata["Name"])}
    return [name for name in (way.package, *way.needs) if name.lower() not in installed]


class Run:
    """One run of a way, with a Redis server of its own, and a witness: a candidate that is no process of the way."""

    def __init__(self, way: Command, *, without_us: bool = False, takeover: bool = False) -> None:
        self.way, self.takeover = way, takeover
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="django-leader-servers-"))
        self.log = self.folder / "log"
        (self.folder / "touched.py").touch()
        self.witness: LeaderElection | None = None
        self.deaths = 0
        """Of candidates. They are counted until their time is over."""
        self.over = threading.Event()
        """Nobody keeps it busy any more."""
        self._busy = threading.Thread(target=self._keep_busy, daemon=True)
        path = program("valkey") or program("redis-server")
        assert path, "no Redis server is installed"
        # What else speaks to Redis uses the socket file: each process that is connected to the port is a candidate.
        self.redis = RedisServer(path, "--unixsocket", str(self.folder / "redis.sock")).start()
        self.client = self.redis.client()
        manage = f"{sys.executable} {ROOT / 'testproject' / 'manage.py'}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                shlex.split(way.command.format(port=self.port, folder=self.folder, manage=manage)),
                cwd=ROOT,
                env=self._environment(without_us),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_as_from_a_terminal,
            )

    def _environment(self, without_us: bool) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO"))}
        return {
            **clean,
            **{name.upper(): str(value) for name, value in DURATIONS.items()},
            "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}",
            "PYTHONPATH": f"{ROOT}:{self.folder}",
            "HOME": str(self.folder),
            "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings",
            "REDIS_URL": self.redis.url,
            "TESTPROJECT_DB": str(self.folder / "db.sqlite3"),
            "SERVERS_FOLDER": str(self.folder),
            "SERVERS_TAKEOVER": str(int(self.takeover)),
            "SERVERS_WITHOUT_US": str(int(without_us)),
            **self.way.environment,
        }

    # What is seen from outside

    def pids(self) -> set[int]:
        """All processes of the session that it leads, zombies apart."""
        found = set()
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                if os.getsid(pid) == self.process.pid and ") Z " not in Path(f"/proc/{pid}/stat").read_text():
                    found.add(pid)
        return found

    def campaigners(self) -> set[int]:
        """The ones of them that are connected to the port of Redis."""
        connections = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        ours = {f"socket:[{one[9]}]" for one in connections if one[2].endswith(f":{self.redis.port:04X}")}
        return {pid for pid in self.pids() if ours & _descriptors(pid)}

    def leader(self) -> int:
        """The pid of the leader as it stands in Redis; 0 when there is none."""
        lock, info = self.client.mget(LOCK, INFO)
        return json.loads(info)["pid"] if lock and info else 0

    def history(self) -> list[tuple[float, str, str]]:
        """When, of which kind, and why: every change, the oldest first."""
        entries: Any = self.client.xrange(f"{{{LOCK}}}:events")
        return [(int(at.split(b"-")[0]), said[b"kind"].decode(), said[b"reason"].decode()) for at, said in entries]

    # What it is asked

    def ask(self, query: str = "", timeout: float = 60) -> dict[str, Any] | None:
        """What one of its processes says of itself; None when there is no answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{query}", timeout=timeout) as answer:
                said: dict[str, Any] = json.load(answer)
                return said
        except (OSError, http.client.HTTPException, ValueError):  # the last: cut short by the end of its server
            return None

    def answers(self, way: Way) -> list[dict[str, Any]]:
        """Several fresh answers; requests are under way at the same time."""
        if way.tasks:
            written = self.folder / "answers"
            before = len(written.read_text().splitlines()) if written.exists() else 0

            def fresh() -> list[str]:
                lines = written.read_text().splitlines()[before + 2 :] if written.exists() else []
                return lines if len(lines) > 4 else []

            return [json.loads(line) for line in eventually(fresh, "tasks are run", every=0.1)]
        self._waits(self.ask, "it serves")
        with ThreadPoolExecutor(8) as pool:
            given = list(pool.map(lambda _: self.ask("?seconds=0.02"), range(16)))
        assert None not in given, "a request was not answered"
        return [answer for answer in given if answer]

    def serves(self, way: Way) -> None:
        """Waits until it serves, and keeps it busy from then on."""
        if way.at_request:
            self._waits(self._listens, "it listens")
            assert not self.over.wait(1)
            assert self.client.dbsize() == 0, "it was a candidate before its first request"
        self.answers(way)
        if not way.tasks:
            self._busy.start()

    def _waits(self, condition: Callable[[], object], what: str) -> None:
        eventually(lambda: self.process.poll() is not None or condition(), what, 2 * BOUND, every=0.1)
        assert self.process.poll() is None, f"it has ended with {self.process.returncode}, but not: {what}"

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def _keep_busy(self) -> None:
        while not self.over.wait(0.05):
            self.ask(timeout=2)

    # What is wanted

    def settles(self) -> set[int]:
        """Waits until the right processes are candidates, and one of them, or the witness, leads. Gives them.

        What /proc tells of connections is not of one instant, and a candidate may connect anew.
        """
        way, found = self.way, set[int]()
        assert isinstance(way, Way)

        def settled() -> bool:
            nonlocal found
            found = self.campaigners()
            known = int(self.client.zcard(f"{{{LOCK}}}:candidates")) - bool(self.witness)
            return (
                (self.process.pid in found, len(found)) == (way.main, way.main + way.children)
                and len(found) <= known <= len(found) + self.deaths
                and (not found or self.leader() in found | ({os.getpid()} if self.witness else set()))
            )

        self._waits(settled, "the right processes are candidates, and one leads")
        return found

    def look(self) -> str:
        """Asks the processes themselves, too, as soon as all is as it should be. Tells which are candidates."""
        assert isinstance(self.way, Way)
        found, leader = self.settles(), self.leader()
        known: Any = self.client.zrange(f"{{{LOCK}}}:candidates", 0, -1)
        assert len({me.rpartition(b":")[0] for me in known}) == len(known), f"some have the same name: {known}"
        for said in self.answers(self.way):
            assert said["is_candidate"] == (said["pid"] in found), f"it says {said}, but the candidates are {found}"
            assert not said["is_leader"] or said["pid"] == leader, f"it says {said}, but {leader} leads"
        self.settles()
        assert self.leader() == leader, f"now {self.leader()} leads, and no longer {leader}"
        children = self.pids() - {self.process.pid}
        among = f"{len(found & children)} of {len(children)} children"
        return " and ".join(["main process"] * self.way.main + [among] * bool(children)) if found else "none"

    def leader_changes(self, act: Callable[[], object], to: int | None = None) -> float:
        """Milliseconds from ``act`` until another process led, or the one that is named."""
        before, began = self.leader(), time.time() * 1000
        act()
        eventually(
            lambda: (leader := self.leader()) == to or (not to and leader not in (0, before)),
            "another process leads",
            BOUND,
            every=0.02,
        )
        # The clock of Redis is that of this machine.
        return next(at for at, kind, _ in reversed(self.history()) if kind in ("elected", "taken-over")) - began

    # What happens to it

    def begin_witness(self) -> int:
        """Another candidate, in this process, which follows whoever leads. Gives its pid."""
        config = Config(instance_id="witness", same_host_takeover=self.takeover, handle_sigterm=False, **DURATIONS)
        self.witness, follows = LeaderElection(self.redis.client(), config), threading.Event()
        self.witness.listen(lambda token: None, lambda token, reason: None, lambda previous, current: follows.set())
        self.witness.start()
        assert follows.wait(BOUND), "the witness follows nobody"
        return os.getpid()

    def rest(self, way: Way) -> None:
        """Sees that no task is under way: Celery may wait 30 s for its result. Nor a request, where none may be."""
        if way.tasks:
            (self.folder / "over").touch()
            eventually(lambda: not self.client.exists("celery", "unacked"), "all tasks are done", every=0.1)
        if way.idle:
            self.over.set()
            self._busy.join(BOUND)

    def stop(self, way: Way) -> None:
        """As its supervisor, or the terminal, does."""
        self.rest(way)
        (os.killpg if way.to_all else os.kill)(self.process.pid, way.stop)

    def ended(self) -> int:
        """Waits until nothing of it is left. Gives the exit status of the main process."""
        status = self.process.wait(BOUND)
        eventually(lambda: not self.pids(), "no process is left", BOUND, every=0.1)
        return status

    def close(self) -> None:
        """Ends whatever there still is."""
        self.over.set()
        while left := self.pids():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.01)
        self.process.wait()
        if self.witness:
            self.witness.stop()
        self.client.close()
        self.redis.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _as_from_a_terminal() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell has what it runs in the background ignore it


def _descriptors(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(link))
    return found


@contextlib.contextmanager
def running(row: Row, what: str, **options: Any) -> Iterator[Run]:
    """A run that leaves nothing behind, however it goes. What goes wrong becomes a problem of its row."""
    run = Run(row.way, **options)
    try:
        yield run
    except (AssertionError, subprocess.TimeoutExpired) as error:
        seen = f"processes {run.pids()}, of which {run.campaigners()} are candidates and {run.leader()} leads"
        said = "\n".join(line for line in run.log.read_text(errors="replace").splitlines() if "GET /" not in line)
        row.problems.append(f"{what}: {error}\nmain process {run.process.pid}, {seen}\n{run.history()}\n{said[-4000:]}")
    finally:
        run.close()


def try_way(way: Command) -> Row:
    """All that is to be found out about one way."""
    row = Row(way)
    if isinstance(way, Way):
        processes = _stop(row, way)
        if way.first:
            return row
        if way.main or way.children:
            _kill(row, way)
        for _ in range(TRIES):
            _without_us(row, way, processes)
            if row.status == row.status_without_us:
                break
    else:
        with running(row, "run") as run:
            row.status = run.process.wait(60)
            assert run.client.dbsize() == 0, "a process was a candidate"
            row.candidates = "none"
        with running(row, "without us", without_us=True) as run:
            row.status_without_us = run.process.wait(60)
    if row.status != row.status_without_us:
        row.problems.append(f"exit status {row.status}, but {row.status_without_us} without us")
    return row


def _stop(row: Row, way: Way) -> int:
    """A graceful stop. Gives how many processes there were."""
    processes = 1
    with running(row, "stop", takeover=way.hurried or not way.releases) as run:
        run.serves(way)
        row.candidates = run.look()
        if way.first:
            way.first(run)
        processes = len(run.pids())
        if run.leader():
            witness = run.begin_witness()
            run.rest(way)
            row.stopped = run.leader_changes(lambda: run.stop(way), witness)
            died = [change for change in run.history() if change[1] == "taken-over"]
            assert way.hurried or bool(died) != way.releases, "how the term ended"
        else:
            run.stop(way)
        row.status = run.ended()
        assert " ERROR django_leader" not in run.log.read_text(), "its log tells of an error"
    return processes


def _kill(row: Row, way: Way) -> None:
    """kill -9 of the leader, and of the main process where that is another one."""
    with running(row, "kill -9", takeover=True) as run:
        run.serves(way)
        run.look()
        if not (way.children and way.replaces):
            run.begin_witness()
        leader = run.leader()
        row.killed = run.leader_changes(lambda: os.kill(leader, signal.SIGKILL))
        run.deaths += 1
        if not way.replaces:  # but most servers end by themselves then
            with contextlib.suppress(ProcessLookupError):
                run.stop(way)
        elif way.children:
            run.look()
            if way.orphans:
                run.process.kill()
                assert run.ask(), "its workers go on"
                return
            row.main_killed = run.leader_changes(run.process.kill, run.begin_witness())
        run.ended()


def _without_us(row: Row, way: Way, processes: int) -> None:
    """The same signal to the same server, without this package in ``INSTALLED_APPS``."""
    with running(row, "without us", without_us=True) as run:
        run.serves(way)
        eventually(lambda: len(run.pids()) >= processes, "as many processes as with us", BOUND, every=0.1)
        serving = max(1, way.children)
        eventually(lambda: len({said["pid"] for said in run.answers(way)}) >= serving, "each of its workers serves")
        run.stop(way)
        row.status_without_us = run.ended()
