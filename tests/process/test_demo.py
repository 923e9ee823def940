"""``make demo`` without a person, and that it leaves nothing behind however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, eventually, program

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short name: pytest's own is too long for a socket where tests run beside each other."""
    with tempfile.TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    need(program("valkey") or program("redis-server"), "a server to embed")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "REDIS_URL"))}
    return subprocess.Popen(
        [sys.executable, "-m", "testproject.demo", *arguments],
        cwd=ROOT,
        env={**clean, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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
def test_the_demo_leaves_nothing_behind(folder: Path, number: signal.Signals) -> None:
    process = demo(folder)
    assert process.stdout
    with process.stdout:
        for line in process.stdout:
            if "Ctrl-C ends it" in line:
                break
        process.send_signal(number)
        process.wait(GENEROUS)
        assert "Traceback" not in process.stdout.read()
    eventually(lambda: not left_behind(folder), "nothing is left of the demo")
    if number != signal.SIGKILL:
        assert list(folder.iterdir()) == []
        assert process.returncode == (0 if number == signal.SIGINT else 143)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_the_demo_runs_without_a_person(folder: Path) -> None:
    process = demo(folder, "--rounds", "1")
    out, _ = process.communicate(timeout=280)
    assert process.returncode == 0, out
    assert "SIGSTOP to" in out
    assert "Each time exactly one other process led" in out
    assert left_behind(folder) == []


@pytest.mark.skipif(sys.platform != "linux", reason="takes over on one host")
def test_the_demo_tells_the_new_pid_and_how_long_nobody_led(folder: Path) -> None:
    process, pids, leader, lines = demo(folder), dict[str, int](), "", []
    assert process.stdout
    with process.stdout:
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"(web-\d)\b.* pid (\d+)", line):
                pids[found[1]] = int(found[2])
            if found := re.search(r"(web-\d) leads \((?:elected|taken-over)(.*)\)", line):
                if leader and found[1] != leader:
                    assert re.fullmatch(r", \d+ ms after the last leader ended", found[2]), lines
                    break
                leader = found[1]
                os.kill(pids[leader], signal.SIGKILL)
        assert found
        for line in process.stdout:
            lines.append(line)
            if back := re.search(r"(web-\d) is back, with pid (\d+)", line):
                break
        assert back, lines
        assert back[1] == leader
        assert int(back[2]) != pids[leader]
        os.kill(int(back[2]), 0)
        process.send_signal(signal.SIGINT)
        process.wait(GENEROUS)
    eventually(lambda: not left_behind(folder), "nothing is left of the demo")
