"""S20: whatever ends a process, it hands over first, and ends as it would have ended without us.

The lease is far longer than a test waits, and nobody watches the process: what frees the election is a release.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually

PRELUDE = """
import multiprocessing, os, signal, sys, threading, time
import redis
from django_leader.protocol.config import Config
from django_leader.runtime.election import LeaderElection

config = Config(lock_ttl=60, heartbeat_interval=1, retry_interval=0.3, quarantine=0, same_host_takeover=False)
def made(config=config):
    return LeaderElection(redis.Redis(port=int(sys.argv[1])), config)
def say(text):
    os.write(1, text.encode() + b"\\n")
def leads(election):
    election.start()
    assert election.wait_for_leadership(20)
def wait():
    say("ready")
    while True:
        time.sleep(60)
"""


class Script:
    """A process that runs what a test wrote."""

    def __init__(self, server: RedisServer, code: str, *around: str, stdin: int | None = None) -> None:
        command = [*around, sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(server.port)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def says(self, text: str) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline().strip() == text

    def ends(self, with_signal: int = signal.SIGTERM) -> int:
        """Its exit status, negative if a signal has ended it."""
        self.process.send_signal(with_signal)
        return self.process.wait(GENEROUS)

    def close(self) -> None:
        with suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(self.process.pid, signal.SIGKILL)  # its children, too
        with suppress(subprocess.TimeoutExpired):  # a child of it that is left may hold the other end
            self.process.communicate(timeout=GENEROUS)


Run = Callable[..., Script]
UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--pid", "--fork", "--kill-child"]


@pytest.fixture
def run(some_server: RedisServer) -> Iterator[Run]:
    started: list[Script] = []

    def start(code: str, *around: str) -> Script:
        started.append(Script(some_server, code, *around))
        return started[-1]

    yield start
    for script in started:
        script.close()


def history(server: RedisServer) -> list[str]:
    """The kinds of what happened, the oldest first."""
    entries: Any = server.client().xrange("{maplefile:leader:lock}:events")
    return [values[b"kind"].decode() for _, values in entries]


def handed_over(server: RedisServer) -> bool:
    return history(server) == ["elected", "resigned"] and not server.client().exists("maplefile:leader:lock")


def kept(server: RedisServer) -> bool:
    return history(server) == ["elected"] and bool(server.client().exists("maplefile:leader:lock"))


def test_s20_a_process_that_handles_no_sigterm_hands_over_and_dies_of_it(run: Run, some_server: RedisServer) -> None:
    script = run("election = made(); leads(election); wait()")
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    assert handed_over(some_server)


def test_s20_loss_callbacks_run_before_it_dies(run: Run, some_server: RedisServer) -> None:
    script = run("""
        election = made()
        election.on_lose_leadership(lambda: say(f"lost {election.is_leader()}"))
        leads(election)
        wait()
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    script.says("lost False")
    assert handed_over(some_server)


def test_s20_a_loss_callback_that_hangs_delays_the_exit_for_limited_time(run: Run, some_server: RedisServer) -> None:
    """By no more than our patience."""
    script = run("""
        election = made()
        election.on_lose_leadership(lambda: time.sleep(3600))
        leads(election)
        wait()
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    assert kept(some_server)


LOGS = """
import logging
class Says(logging.Handler):
    def emit(self, record):
        say(f"{record.levelname} {record.getMessage()}")
logging.getLogger("django_leader").addHandler(Says())
election = made()
election.on_lose_leadership(lambda: time.sleep(3600))
leads(election)
say("ready")
"""
"""A leader whose loss callback hangs."""


def ends_of_terms(script: Script) -> list[str]:
    """The lines that are left and that are about the end of a term: a busy machine may have late heartbeats, too."""
    assert script.process.stdout
    lines = script.process.stdout.read().splitlines()
    return [line for line in lines if "lost leadership" in line or "waits for loss callbacks" in line]


@pytest.mark.parametrize(("end", "seconds"), [("wait()", "0.5"), ("sys.exit()", "1.5")], ids=["SIGTERM", "exit"])
def test_a_process_that_ends_says_once_what_it_waits_for(run: Run, end: str, seconds: str) -> None:
    script = run(f"{LOGS}\nlogging.getLogger('django_leader').setLevel('WARNING')\n{end}")
    script.says("ready")
    if end == "wait()":
        script.says("ready")
        assert script.ends() == -signal.SIGTERM
    else:
        assert script.process.wait(GENEROUS) == 0
    [line] = ends_of_terms(script)
    before, _, after = line.partition(" for another ")
    assert before == "WARNING LEADER_ELECTIONS['default']: the process ends, and waits for loss callbacks"
    assert 0 < float(after[:3]) <= float(seconds)
    assert after[3:].startswith(" s at most. If they take longer, they are cut off")


def test_the_end_of_a_term_is_logged_before_the_process_ends(run: Run) -> None:
    script = run(f"{LOGS}\nlogging.getLogger('django_leader').setLevel('INFO')\nwait()")
    script.says("ready")
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    first, second = ends_of_terms(script)
    assert first.startswith("INFO LEADER_ELECTIONS['default']: lost leadership: resigned (")
    assert "waits for loss callbacks" in second


def test_the_line_about_the_wait_delays_no_hand_over(run: Run, some_server: RedisServer) -> None:
    """The interrupted thread holds the lock of the log."""
    script = run("""
        import logging
        import django_leader.system.sigterm
        django_leader.system.sigterm.SLOW = 0.1
        django_leader.system.sigterm.PATIENCE = 3600
        logging.basicConfig(level="WARNING", stream=sys.stderr)
        election = made()
        election.on_lose_leadership(lambda: time.sleep(0.5))
        leads(election)
        [lock] = [handler.lock for handler in logging.getLogger().handlers]
        with lock:
            wait()
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    assert handed_over(some_server)


def test_a_second_sigterm_ends_it_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    script = run("""
        import django_leader.system.sigterm
        django_leader.system.sigterm.PATIENCE = 3600
        election = made()
        election.on_lose_leadership(lambda: (say("lost"), time.sleep(3600)))
        leads(election)
        wait()
    """)
    script.says("ready")
    script.process.send_signal(signal.SIGTERM)
    script.says("lost")
    assert script.ends() == -signal.SIGTERM


def test_the_handler_of_the_application_is_called_and_decides(run: Run, some_server: RedisServer) -> None:
    script = run("""
        def handler(number, frame):
            say(f"handler {number}")
        signal.signal(signal.SIGTERM, handler)
        election = made(); leads(election)
        say("ready")
        while election.running:
            time.sleep(0.01)
        say("no longer")
        sys.exit(7)
    """)
    script.says("ready")
    script.process.send_signal(signal.SIGTERM)
    script.says(f"handler {signal.SIGTERM:d}")
    script.says("no longer")
    assert script.process.wait(GENEROUS) == 7
    assert handed_over(some_server)


def test_a_handler_that_exits_leaves_the_exit_status_as_it_was(run: Run, some_server: RedisServer) -> None:
    script = run("signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); election = made(); leads(election); wait()")
    script.says("ready")
    assert script.ends() == 9
    assert handed_over(some_server)


def test_a_handler_that_waits_for_the_lock_of_a_log_hangs_nothing(run: Run, some_server: RedisServer) -> None:
    """The interrupted thread holds it, and so the election thread cannot log until the handler has returned."""
    script = run("""
        import logging
        logging.basicConfig(level="INFO", stream=sys.stderr)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
        election = made(); leads(election)
        [lock] = [handler.lock for handler in logging.getLogger().handlers]
        with lock:
            wait()
    """)
    script.says("ready")
    assert script.ends() == 9
    assert handed_over(some_server)


def test_s20_a_signal_that_interrupts_logging_hands_over(run: Run, some_server: RedisServer) -> None:
    """The main thread waits for the hand-over, and holds the lock of a log handler all the while."""
    script = run("""
        import logging
        logging.basicConfig(level="INFO", stream=sys.stderr)
        election = made(); leads(election)
        [lock] = [handler.lock for handler in logging.getLogger().handlers]
        with lock:
            wait()
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    assert handed_over(some_server)


def test_where_sigterm_is_ignored_it_stays_ignored(run: Run, some_server: RedisServer) -> None:
    script = run("""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        election = made(); leads(election)
        say(str(signal.getsignal(signal.SIGTERM) == signal.SIG_IGN))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        say(str(election.is_leader()))
        wait()
    """)
    for answer in ("True", "True", "ready"):
        script.says(answer)


def test_a_setting_leaves_sigterm_alone(run: Run, some_server: RedisServer) -> None:
    script = run("""
        from dataclasses import replace
        election = made(replace(config, handle_sigterm=False)); leads(election); wait()
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    assert kept(some_server)


def test_a_start_in_another_thread_leaves_sigterm_alone(run: Run, some_server: RedisServer) -> None:
    script = run("""
        election = made()
        thread = threading.Thread(target=leads, args=(election,)); thread.start(); thread.join()
        wait()
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    assert kept(some_server)


def test_an_election_that_is_over_delays_no_end(run: Run, some_server: RedisServer) -> None:
    script = run("election = made(); leads(election); election.stop(); wait()")
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    assert handed_over(some_server)


def test_s20_process_1_of_a_container_hands_over_and_participates_again(run: Run, some_server: RedisServer) -> None:
    """It lives on, as it would without us: the kernel lets it die only of a signal that it handles, so its
    supervisor has to kill it.
    """
    trial = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if trial.returncode:
        pytest.skip(f"no pid namespace may be made here: {trial.stderr.strip()}")
    script = run(
        """
        import django_leader.system.sigterm
        django_leader.system.sigterm.STAYS = 1.0
        election, stopped = made(), made(Config(redis_key_name="other", redis_info_key_name="info", quarantine=0))
        leads(election); leads(stopped)
        say("ready")
        def until(condition):
            end = time.monotonic() + 20
            while not condition() and time.monotonic() < end:
                time.sleep(0.01)
        for _ in range(2):
            until(lambda: not election.running)
            say(f"process {os.getpid()} lives on")
            stopped.stop()
            until(election.is_leader)
            say(f"leads again: {election.is_leader()}, {stopped.running}")
        wait()
        """,
        *UNSHARE,
    )
    script.says("ready")
    [inside] = Path(f"/proc/{script.process.pid}/task/{script.process.pid}/children").read_text().split()
    for _ in range(2):  # it has our handler again
        os.kill(int(inside), signal.SIGTERM)
        script.says("process 1 lives on")
        script.says("leads again: True, False")
    assert history(some_server) == ["elected", "resigned"] * 2 + ["elected"]


def test_a_process_whose_handler_means_to_go_on_is_a_candidate_again(run: Run, some_server: RedisServer) -> None:
    script = run("""
        import django_leader.system.sigterm
        django_leader.system.sigterm.DRAINS = 2.0
        signal.signal(signal.SIGTERM, lambda number, frame: say("reloads"))
        election = made()
        leads(election)
        say("ready")
        while election.running:
            time.sleep(0.01)
        say("is not participating")
        while not election.is_leader():
            time.sleep(0.01)
        say("leads again")
        wait()
    """)
    script.says("ready")
    script.process.send_signal(signal.SIGTERM)
    script.says("reloads")
    script.says("is not participating")
    script.says("leads again")
    assert history(some_server) == ["elected", "resigned", "elected"]


def test_s20_an_election_run_in_the_main_thread_hands_over_and_ends(run: Run, some_server: RedisServer) -> None:
    """The process dies of SIGTERM."""
    script = run("""
        election = made()
        election.on_become_leader(lambda: say("ready"))
        election.run()
        say("not reached")
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    script.says("")
    assert handed_over(some_server)


def test_s20_a_main_thread_that_is_stopping_the_election_finishes_first(run: Run, some_server: RedisServer) -> None:
    """Then the process dies of SIGTERM."""
    script = run("""
        election = made()
        def lost():
            say("lost")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        election.on_lose_leadership(lost)
        leads(election)
        election.stop()
        wait()
    """)
    script.says("lost")
    assert script.process.wait(GENEROUS) == -signal.SIGTERM
    assert handed_over(some_server)


def test_s19_a_forked_child_has_the_handler_of_before(run: Run, some_server: RedisServer) -> None:
    script = run("""
        election = made(); leads(election)
        pid = os.fork()
        if not pid:
            say(str(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL))
            wait()
        time.sleep(0.2)
        os.kill(pid, signal.SIGTERM)
        say(f"child {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])} {election.is_leader()}")
        wait()
    """)
    for answer in ("True", "ready", f"child {-signal.SIGTERM} True", "ready"):
        script.says(answer)
    assert kept(some_server)


def test_s19_a_child_that_is_ended_right_after_its_fork_ends(run: Run) -> None:
    """As a pool ends one that it did not need: before Python has run there, and then waits for it."""
    script = run("""
        election = made(); leads(election)
        for _ in range(100):
            if not (pid := os.fork()):
                time.sleep(20)
                os._exit(1)
            os.kill(pid, signal.SIGTERM)
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGTERM:
                sys.exit(1)
        say(f"all, {election.is_leader()}, {signal.pthread_sigmask(signal.SIG_BLOCK, ())}")
    """)
    script.says("all, True, set()")


def test_s20_a_child_with_a_handler_chained_behind_ours_ends(run: Run, some_server: RedisServer) -> None:
    """That handler stays in the child, so ours is put before it; that handler calls the one that the parent had."""
    script = run("""
        election = made(); leads(election); election.stop()
        ours = signal.getsignal(signal.SIGTERM)
        def chained(number, frame):
            say("chained")
            ours(number, frame)
        signal.signal(signal.SIGTERM, chained)
        if not (pid := os.fork()):
            leads(election)
            wait()
        say(f"child {pid}")
        say(f"ended {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
    """)
    assert script.process.stdout
    said = sorted(script.process.stdout.readline().strip() for _ in range(2))
    os.kill(int(said[0].removeprefix("child ")), signal.SIGTERM)
    script.says("chained")
    script.says(f"ended {-signal.SIGTERM}")
    assert history(some_server) == ["elected", "resigned"] * 2


def test_s19_a_child_forked_in_c_dies_of_sigterm_and_releases_nothing(run: Run, some_server: RedisServer) -> None:
    script = run("""
        from tests.support.c_forks import fork_in_c
        election = made(); leads(election)
        pid = fork_in_c()
        if not pid:
            wait()
        os.kill(pid, signal.SIGTERM)
        say(f"child {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])} {election.is_leader()}")
        wait()
    """)
    said: list[str] = []
    assert script.process.stdout
    while not said or said[-1] != f"child {-signal.SIGTERM} True":
        said.append(script.process.stdout.readline().strip())
        assert said[-1] in ("ready", f"child {-signal.SIGTERM} True"), said
    assert kept(some_server)


def test_s20_a_leader_required_command_hands_over_and_dies_of_sigterm(run: Run, some_server: RedisServer) -> None:
    script = run("""
        import django
        from django.conf import settings
        cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"redis://127.0.0.1:{sys.argv[1]}/0"}
        settings.configure(
            INSTALLED_APPS=["django_leader"],
            CACHES={"default": cache},
            LEADER_ELECTIONS={"default": {"LOCK_TTL": 60, "QUARANTINE": 0, "SAME_HOST_TAKEOVER": False}},
        )
        django.setup()
        from django.core.management import BaseCommand, call_command
        from django_leader import leader_required
        class Command(BaseCommand):
            @leader_required(election="default", hold=3600)
            def handle(self, *args, **options):
                try:
                    wait()
                finally:
                    say("finally")
        call_command(Command())
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    script.says("finally")
    assert handed_over(some_server), "nothing is held: the job has not been done"


@pytest.mark.parametrize(
    ("method", "where"),
    [("fork", "work"), ("spawn", "work"), ("forkserver", "work"), ("spawn", "import"), ("forkserver", "import")],
)
def test_s20_a_child_of_multiprocessing_hands_over_when_it_ends(
    run: Run, some_server: RedisServer, method: str, where: str, tmp_path: Any
) -> None:
    """It runs no ``atexit``. What it registers while it imports its parent's program, it forgets."""
    program = tmp_path / "program.py"
    program.write_text(
        PRELUDE
        + textwrap.dedent(f"""
        if __name__ != "__main__" and {where == "import"}:
            election = made(); election.start()
        def work():
            global election  # nothing ends it by being collected
            if {where == "work"}:
                election = made()
            leads(election)
        if __name__ == "__main__":
            child = multiprocessing.get_context({method!r}).Process(target=work)
            child.start(); child.join()
            sys.exit(child.exitcode)
    """)
    )
    done = subprocess.run(
        [sys.executable, str(program), str(some_server.port)],
        env={"PYTHONPATH": str(ROOT)},
        timeout=GENEROUS,
        check=False,
    )
    assert done.returncode == 0
    assert handed_over(some_server)


def test_s20_the_end_of_the_interpreter_hands_over_and_keeps_the_status(run: Run, some_server: RedisServer) -> None:
    script = run("election = made(); leads(election); sys.exit(5)")
    assert script.process.wait(GENEROUS) == 5
    assert handed_over(some_server)


WAITS = {
    "a child process": """
        multiprocessing.util.Finalize(None, say, args=("the main thread has ended",), exitpriority=5)
        multiprocessing.get_context("fork").Process(target=wait_for_the_word).start()
    """,
    "a finalizer": "multiprocessing.util.Finalize(None, until_the_word, exitpriority=5)",
    "an exit handler": "atexit.register(until_the_word)",
    "a thread": "threading.Thread(target=until_the_word).start()",
}
"""What a process still waits for when its main thread has returned."""


@pytest.mark.parametrize("imported", ["before", "after"])
@pytest.mark.parametrize("what", WAITS)
def test_s20_a_process_without_its_main_thread_is_a_candidate_until_it_ends(
    run: Run, some_server: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, imported: str
) -> None:
    if imported == "before":  # the order of exit handlers depends on it
        monkeypatch.setitem(globals(), "PRELUDE", f"import multiprocessing.util\n{PRELUDE}")
    word = tmp_path / "word"
    script = run(f"""
        import atexit, multiprocessing.util
        from pathlib import Path
        def wait_for_the_word():
            while not Path({str(word)!r}).exists():
                time.sleep(0.01)
        def until_the_word():
            say("the main thread has ended")
            wait_for_the_word()
            say(f"leads: {{election.is_leader()}}")
        election = made(); leads(election)
        {textwrap.dedent(WAITS[what]).strip().replace(chr(10), chr(10) + " " * 8)}
    """)
    script.says("the main thread has ended")
    assert kept(some_server)
    word.touch()
    if what != "a child process":
        script.says("leads: True")
    assert script.process.wait(GENEROUS) == 0
    assert handed_over(some_server)


def test_s20_a_process_leads_on_while_it_waits_for_its_children(
    run: Run, some_server: RedisServer, tmp_path: Path
) -> None:
    """Then it says that it ends."""
    word = tmp_path / "word"
    script = run(f"""
        import logging, multiprocessing.util
        from pathlib import Path
        logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
        def wait_for_the_word():
            while not Path({str(word)!r}).exists():
                time.sleep(0.01)
        election = made()
        multiprocessing.get_context("fork").Process(target=wait_for_the_word).start()
        leads(election)
    """)
    label = "LEADER_ELECTIONS['default']"
    assert script.process.stdout
    assert script.process.stdout.readline().startswith(f"{label}: leader, with token")
    script.says(
        f"{label}: the main thread has ended, and the process waits for its child processes; "
        "it is a candidate until these have ended"
    )
    assert kept(some_server)
    word.touch()
    script.says(f"{label}: the process ends, and is no longer a candidate")
    assert script.process.stdout.readline().startswith(f"{label}: lost leadership: resigned (")
    assert script.process.wait(GENEROUS) == 0
    assert handed_over(some_server)


def test_s20_where_a_server_has_ended_nothing_is_waited_for(run: Run, some_server: RedisServer) -> None:
    """What its leader does is often a child process, and a loss callback ends that."""
    script = run("""
        from django_leader.runtime.lifecycle import lifecycle
        lifecycle.server = True
        election = made()
        work = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
        started = threading.Event()
        election.on_become_leader(lambda: (work.start(), started.set()))
        election.on_lose_leadership(work.terminate)
        leads(election); started.wait()
    """)
    assert script.process.wait(GENEROUS) == 0
    assert handed_over(some_server)


def test_s20_ctrl_c_hands_over(run: Run, some_server: RedisServer) -> None:
    script = run("election = made(); leads(election); sys.stderr = open(os.devnull, 'w'); wait()")
    script.says("ready")
    assert script.ends(signal.SIGINT) == -signal.SIGINT
    eventually(lambda: handed_over(some_server))


def test_s20_under_gevent_it_hands_over_and_dies_of_sigterm(run: Run, some_server: RedisServer) -> None:
    """Where every greenlet waits, the handler runs in the hub, which cannot wait."""
    need(importlib.util.find_spec("gevent") is not None, "gevent")
    script = run("""
        import gevent.monkey
        gevent.monkey.patch_all()
        os.dup2(1, 2)
        election = made(); leads(election)
        gevent.spawn(say, "ready")
        time.sleep(60)
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    script.says("")
    assert handed_over(some_server)


def test_s20_under_eventlet_it_hands_over_and_dies_of_sigterm(run: Run, some_server: RedisServer) -> None:
    """It has two objects for the main thread, and runs the handler in its hub, too."""
    need(importlib.util.find_spec("eventlet") is not None, "eventlet")
    script = run("""
        import warnings
        warnings.simplefilter("ignore")
        import eventlet
        eventlet.monkey_patch()
        election = made(); leads(election)
        eventlet.spawn(say, "ready")
        time.sleep(60)
    """)
    script.says("ready")
    assert script.ends() == -signal.SIGTERM
    script.says("")
    assert handed_over(some_server)
