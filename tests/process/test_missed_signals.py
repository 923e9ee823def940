"""S20: SIGTERM that the main thread has missed, because it came between Python's last look and a system call."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.process.test_stop import Script, handed_over
from tests.support.servers import GENEROUS, RedisServer

DELAY = Path(__file__).with_name("delay.c")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    need(compiler, "a C compiler")
    path = tmp_path_factory.mktemp("delay") / "delay.so"
    subprocess.run([str(compiler), "-shared", "-fPIC", "-O1", "-o", str(path), str(DELAY), "-ldl"], check=True)
    return str(path)


class Delayed(Script):
    """A process whose main thread has missed a SIGTERM, and is about to wait for an hour."""

    stdin: int

    def miss(self) -> None:
        self.says("delayed")
        self.process.send_signal(signal.SIGTERM)

    def go_on(self) -> None:
        os.write(self.stdin, b"!")


@pytest.fixture
def delayed(some_server: RedisServer, library: str) -> Iterator[Callable[[str], Delayed]]:
    started: list[tuple[Delayed, int]] = []

    def start(code: str) -> Delayed:
        reader, writer = os.pipe()
        around = ["env", f"LD_PRELOAD={library}"]
        script = Delayed(some_server, "import select\n" + textwrap.dedent(code), *around, stdin=reader)
        os.close(reader)
        script.stdin = writer
        started.append((script, writer))
        return script

    yield start
    for script, writer in started:
        script.close()
        os.close(writer)


Delay = Callable[[str], Delayed]
NEVER_HANGS = "import django_leader.system.wakeup; django_leader.system.wakeup.HANGS = 3600\n"


def test_a_signal_that_was_missed_ends_a_process_without_a_handler(delayed: Delay, some_server: RedisServer) -> None:
    script = delayed(NEVER_HANGS + "election = made(); leads(election); select.select([], [], [], 3600)")
    script.miss()
    script.go_on()
    assert script.process.wait(GENEROUS) == -signal.SIGTERM
    assert handed_over(some_server)


def test_a_handler_that_has_missed_its_signal_is_called_once(delayed: Delay, some_server: RedisServer) -> None:
    script = delayed("""
        def handler(number, frame):
            say("handler")
            threading.Timer(1, os._exit, [7]).start()
        signal.signal(signal.SIGTERM, handler)
        election = made(); leads(election); select.select([], [], [], 3600)
    """)
    script.miss()
    script.go_on()
    script.says("handler")
    script.says("")
    assert script.process.wait(GENEROUS) == 7
    assert handed_over(some_server)


def test_a_process_ends_although_its_main_thread_hangs_in_c(delayed: Delay, some_server: RedisServer) -> None:
    """As in a driver of a database, which goes on with its call after a signal."""
    script = delayed("election = made(); leads(election); select.select([], [], [], 3600)")
    script.miss()
    assert script.process.wait(GENEROUS) == -signal.SIGTERM
    assert handed_over(some_server)


def test_s19_a_signal_to_a_child_forked_in_c_is_not_its_parents(
    delayed: Delay, some_server: RedisServer, tmp_path: Path
) -> None:
    """They share the socket of the wake-up descriptor, and the parent waits where it would be sent the signal again."""
    word = str(tmp_path / "word")
    script = delayed(f"""
        from tests.support.c_forks import fork_in_c
        signal.signal(signal.SIGTERM, lambda *_: (say("handler"), open({word!r}, "w").close()))
        election = made(); leads(election)
        pid = fork_in_c()
        if not pid:
            say("child")
            time.sleep(60)
            say("child goes on")
            time.sleep(60)
        say("parent")
        time.sleep(1)
        os.kill(pid, signal.SIGTERM)
        while not os.path.exists({word!r}):
            time.sleep(0.01)
        time.sleep(0.5)
        say(f"leads: {{election.is_leader()}}")
        os.kill(pid, signal.SIGKILL)
        os._exit(0)
    """)
    assert script.process.stdout
    said = [line.strip() for line in script.process.stdout]
    assert sorted(said) == ["child", "handler", "leads: True", "parent"]


def test_s19_a_forked_child_gives_the_descriptor_back(delayed: Delay) -> None:
    script = delayed("""
        election = made(); leads(election)
        ours = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        if not (pid := os.fork()):
            say(f"child: {signal.set_wakeup_fd(-1)}")
            made().start()
            say(f"child, which is a candidate: {signal.set_wakeup_fd(-1) >= 0}")
            os._exit(0)
        os.waitpid(pid, 0)
        say(f"parent: {signal.set_wakeup_fd(-1) == ours >= 0}")
    """)
    script.says("child: -1")
    script.says("child, which is a candidate: True")
    script.says("parent: True")


def test_a_descriptor_that_somebody_else_has_is_left_to_them(delayed: Delay) -> None:
    script = delayed("""
        import asyncio
        async def main():
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, say, "signal")
            theirs = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(theirs)
            election = made(); election.start()
            now = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(now)
            say(str(now == theirs))
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.1)
            return election
        election = asyncio.run(main())
        say(f"given up: {signal.set_wakeup_fd(-1)}")
        election.stop(); election.start()
        say(f"taken again: {signal.set_wakeup_fd(-1) >= 0}")
    """)
    for text in ("True", "signal", "given up: -1", "taken again: True"):
        script.says(text)
