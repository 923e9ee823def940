"""``make demo`` without a person, and that it leaves nothing behind however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest

from testproject.demo import JOB, RUNS, Failure, Slots, Web
from tests.conftest import need
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually, program

Start = Callable[..., subprocess.Popen[str]]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short name: pytest's own is too long for a socket where tests run beside each other."""
    with tempfile.TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def demo(folder: Path) -> Iterator[Start]:
    """Start the demo. It is killed if the test fails, and its processes end with it."""
    need(program("valkey") or program("redis-server"), "a server to embed")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "REDIS_URL"))}
    with contextlib.ExitStack() as stack:

        def start(*arguments: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "testproject.demo", *arguments],
                cwd=ROOT,
                env={**clean, "TMPDIR": str(folder)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def left_behind(folder: Path) -> list[str]:
    """The processes that still know the folder: its servers by their arguments, the others by their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                known = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in known:
                found.append(entry.name)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_demo_leaves_nothing_behind(demo: Start, folder: Path, number: signal.Signals) -> None:
    process = demo()
    assert process.stdout
    with process.stdout:
        for line in process.stdout:
            if "Ctrl-C ends it" in line:
                break
        process.send_signal(number)
        process.wait(GENEROUS)
        rest = process.stdout.read()
        assert "Traceback" not in rest
    eventually(lambda: not left_behind(folder), "nothing is left of the demo")
    if number != signal.SIGKILL:
        assert list(folder.iterdir()) == []
        assert process.returncode == (0 if number == signal.SIGINT else 143), rest


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_the_demo_runs_without_a_person(demo: Start, folder: Path) -> None:
    process = demo("--rounds", "1")
    out, _ = process.communicate(timeout=280)
    assert process.returncode == 0, out
    assert "SIGSTOP to" in out
    assert "Each time exactly one other process led" in out
    assert len(re.findall(r"  slots [\d:]+ to [\d:]+: .*web-\d ran \d+.*, each once; ", out)) == 3, out
    assert re.search(
        r"The job of every second: \d+ slots(, each run once, none missed|: \d+ run, each once; .*)\.", out
    )
    assert left_behind(folder) == []


class Stranger(BaseHTTPRequestHandler):
    """A web process of another demo."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"pid": 1, "is_leader": True}).encode())

    def log_message(self, *_: Any) -> None: ...


def test_the_demo_tells_its_own_processes_from_those_of_another(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever).start()
        web = Web("web-1", server.server_port, tmp_path / "log")
        answers = []
        for pid in (1, 2):
            web.process = cast(Any, SimpleNamespace(pid=pid))
            answers.append(web.ask())
        server.shutdown()
    assert answers == [{"pid": 1, "is_leader": True}, None]


SLOT = 1_764_323_100
"""The first slot of the rows, in seconds since 1970."""


class Ran(NamedTuple):
    """What has become of slots: offsets from the first one, of those with a row; and entries of the stream."""

    rows: list[tuple[int, str]]
    told: list[tuple[int | None, int, str]]
    expected: str


TOLD = {
    "all": Ran([(0, "web-1"), (1, "web-1"), (2, "web-2")], [], "3 slots, each run once, none missed"),
    "missed": Ran(
        [(0, "web-1"), (4, "web-2")],
        [(0, 2, "missed"), (None, 3, "in-doubt"), (None, 4, "ok")],
        "5 slots: 2 run, each once; 2 missed, because no process led; "
        "1 in doubt, because the leader was killed in the middle",
    ),
    "done, and in doubt": Ran(
        [(0, "web-1"), (1, "web-2")], [(None, 0, "in-doubt")], "2 slots, each run once, none missed"
    ),
    "lost": Ran([(0, "web-1"), (2, "web-1")], [(None, 1, "ok")], "was not run, and nothing says why"),
    "twice": Ran([(0, "web-1"), (1, "web-1"), (1, "web-2")], [], "slots were run twice: "),
    "none": Ran([], [], "0 slots, each run once, none missed"),
}


@pytest.mark.parametrize("case", TOLD)
def test_the_demo_finds_each_slot_that_was_lost_or_run_twice(
    case: str, tmp_path: Path, some_server: RedisServer
) -> None:
    ran, client = TOLD[case], some_server.client()
    client.flushall()
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as connection, connection:
        connection.execute("CREATE TABLE jobs_run (job, instance_id, scheduled_for)")
        for offset, name in ran.rows:
            shown = datetime.fromtimestamp(SLOT + offset, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
            connection.execute("INSERT INTO jobs_run VALUES (?, ?, ?)", [JOB, name, shown])
    for since, slot, outcome in ran.told:
        entry: dict[Any, Any] = {"name": JOB, "slot": (SLOT + slot) * 1000, "outcome": outcome}
        client.xadd(RUNS, entry if since is None else entry | {"since": (SLOT + since) * 1000})
    slots = Slots(client, tmp_path / "db")
    try:
        said = slots.total()
    except Failure as failure:
        said = str(failure)
    assert ran.expected in said


@pytest.mark.skipif(sys.platform != "linux", reason="takes over on one host")
def test_the_demo_tells_the_new_pid_and_how_long_nobody_led(demo: Start, folder: Path) -> None:
    """On a busy machine the first leader may lose its lease by itself. So each leader is killed until one is told."""
    process, pids, killed, leader, lines = demo(), dict[str, int](), dict[str, int](), "", list[str]()
    took = back = None
    assert process.stdout
    with process.stdout:
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"(web-\d)\b.* pid (\d+)", line):
                pids[found[1]] = int(found[2])
                if "is back" in line and found[1] in killed:
                    back = found
            if found := re.search(r"(web-\d) leads \((?:elected|taken-over)(.*)\)", line):
                if found[1] not in killed and re.fullmatch(r", \d+ ms after the last leader ended", found[2]):
                    took = found
                leader = "" if took else found[1]
            if leader and killed.get(leader) != pids[leader]:
                killed[leader], back = pids[leader], None
                os.kill(pids[leader], signal.SIGKILL)
            if took and back:
                break
        assert took, lines
        assert back, lines
        assert int(back[2]) != killed[back[1]]
        os.kill(int(back[2]), 0)
        process.send_signal(signal.SIGINT)
        process.wait(GENEROUS)
    eventually(lambda: not left_behind(folder), "nothing is left of the demo")
