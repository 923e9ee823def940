"""Children that a leader forks: none of them leads, and none takes anything from its parent (S19)."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from django_leader.system.clock import now
from tests.support.candidates import ROOT, Candidate
from tests.support.servers import GENEROUS, RedisServer, eventually

FORKS = int(os.environ.get("FORKS", "500"))
"""Of the storm. CI has twice as many."""
LONG = {"lock_ttl": 20.0, "quarantine": 0}
"""A lease that runs out in no test, so that whatever ends a term is somebody's doing."""
HEARTBEAT = 0.4
FINE = 42


def history(server: RedisServer) -> list[tuple[str, str, int]]:
    """Kind, holder and token of all that happened, the oldest first."""
    entries: Any = server.client().xrange("{maplefile:leader:lock}:events")
    return [(v[b"kind"].decode(), v[b"holder"].decode(), int(v[b"token"])) for _, v in entries]


@pytest.mark.timeout(120 + FORKS // 10)
@pytest.mark.parametrize("instance_id", ["", "fixed"])
def test_s19_a_storm_of_forks_takes_nothing_from_a_busy_leader(own_server: RedisServer, instance_id: str) -> None:
    election = {"heartbeat_interval": 0.01, "retry_interval": 0.05, "instance_id": instance_id, **LONG}
    options = {"port": own_server.port, "forks": FORKS // 2, "seed": 19, **election}
    storm = subprocess.run(
        [sys.executable, "-m", "tests.support.forking_process", json.dumps(options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (storm.stderr, storm.returncode) == ("", 0)
    said = json.loads(storm.stdout)
    assert said["wrong"] == []
    before, after = said["descriptors"]
    assert after <= before
    mine = {int(token): holder for token, holder in said["stopped"].items()}
    *stopped, _ = mine  # the last one ends with the process
    assert said["lost"] == [[token, "resigned"] for token in stopped]
    happened = history(own_server)
    resigned = [(holder, token) for kind, holder, token in happened if kind == "resigned" and token in mine]
    assert resigned == [(holder, token) for token, holder in mine.items()], "each once, by its own stop"
    led = [(holder, token) for kind, holder, token in happened if kind in ("elected", "taken-over")]
    assert [token for _, token in led] == sorted({token for _, token in led})
    assert {holder for holder, token in led if token not in mine}.isdisjoint(mine.values())


@pytest.fixture
def leader(own_server: RedisServer) -> Iterator[Callable[..., Candidate]]:
    """Makes a leader, and ends it."""
    made: list[Candidate] = []

    def make(instance_id: str = "", *, autostart: bool = False, **options: Any) -> Candidate:
        settings = {"instance_id": instance_id, "heartbeat_interval": HEARTBEAT, "retry_interval": 0.3, **LONG}
        settings["autostart"] = autostart
        process = Candidate(own_server.port, program="tests.support.working_process", election=settings, **options)
        made.append(process)
        return process

    yield make
    for process in made:
        process.close()


Make = Callable[..., Candidate]


def check_goes_on(parent: Candidate, token: int, server: RedisServer) -> None:
    """The parent still leads, as after some heartbeats, and nobody has ended its term."""
    start = now()
    eventually(lambda: now() > start + 3 * HEARTBEAT)
    verdict = parent.verdict()
    assert (verdict["leads"], verdict["token"]) == (True, token)
    assert [kind for kind, _, _ in history(server)] == ["elected"]
    assert server.client().get("maplefile:leader:lock").decode().startswith(verdict["name"] + ":")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("method", "instance_id"), [("fork", ""), ("fork", "fixed"), ("forkserver", ""), ("spawn", "")]
)
def test_s19_no_child_of_multiprocessing_leads(
    leader: Make, own_server: RedisServer, method: str, instance_id: str
) -> None:
    parent = leader(instance_id)
    token = parent.hears("gain")["token"]
    parent.tell(f"processes:{method}")
    said = parent.hears("processes", timeout=60)
    assert said["exit"] == FINE
    assert not any(child["leads"] or child["token"] for child in said["seen"])
    verdict = parent.verdict()
    names = {child["name"] for child in said["seen"]}
    assert names == {"fixed"} if instance_id else verdict["name"] not in names, "a generated identity is not shared"
    assert verdict["pid"] not in {child["pid"] for child in said["seen"]}
    assert {child["leader"] for child in said["seen"] if "leader" in child} == {verdict["name"]}
    check_goes_on(parent, token, own_server)


def test_a_child_that_browses_the_project_itself_starts_nothing(leader: Make, own_server: RedisServer) -> None:
    parent = leader(autostart=True)
    token = eventually(lambda: parent.verdict()["token"])
    parent.tell("browse")
    browsed = parent.hears("browsed")
    assert (browsed["status"], browsed["running"]) == (404, False)
    check_goes_on(parent, token, own_server)


@pytest.mark.parametrize(
    ("callback", "ends"),
    [
        *itertools.product(("became_leader", "lost_leadership"), ("return", "raise", "exit", "campaign", "process")),
        *itertools.product(("on_become_leader", "on_lose_leadership"), ("return", "campaign")),
    ],
)
def test_s19_a_callback_that_forks_leaves_the_term_to_its_parent(
    leader: Make, own_server: RedisServer, callback: str, ends: str
) -> None:
    parent = leader(callback=callback, ends=ends)
    token = parent.hears("gain")["token"]
    if "los" in callback:
        parent.tell("stop")
    inherited = parent.hears("inherited")
    assert (inherited["leads"], inherited["token"], inherited["running"]) == (False, None, False)
    assert inherited["sockets"] == 0, "the server sees the end of the parent, however long the child lives"
    child = parent.hears("child")
    assert child["code"] == (FINE if ends in ("campaign", "process") else 0)
    if ends == "campaign":
        campaigned = parent.hears("campaigned")
        assert (campaigned["leads"], campaigned["running"]) == (False, True), "the lease is still held"
        assert campaigned["name"] == inherited["name"] != child["name"]
    if "los" in callback:
        parent.hears("loss", reason="resigned")
        eventually(lambda: [kind for kind, _, _ in history(own_server)] == ["elected", "resigned"])
    else:
        check_goes_on(parent, token, own_server)
    parent.tell("exit")
    assert parent.process.wait(GENEROUS) == 0
    assert [kind for kind, _, _ in history(own_server)] == ["elected", "resigned"]


@pytest.mark.parametrize("does", ["exit", "use", "campaign", "exec"])
def test_s19_a_child_forked_in_c_has_its_own_candidacy_or_none(
    leader: Make, own_server: RedisServer, does: str
) -> None:
    """As uWSGI makes them: no hook of Python's runs."""
    parent = leader()
    token = parent.hears("gain")["token"]
    parent.tell(f"fork in C:{does}")
    inherited = parent.hears("inherited")
    assert (inherited["leads"], inherited["token"], inherited["running"]) == (False, None, False)
    child = parent.hears("child")
    assert child["code"] == FINE
    if does == "campaign":
        did = parent.hears("did")
        assert (did["leads"], did["running"]) == (False, True)
        assert did["name"] != child["name"]
    if does == "use":
        assert parent.hears("did")["leader"] == child["name"]
    check_goes_on(parent, token, own_server)


def test_s07_children_forked_in_c_share_no_name(leader: Make) -> None:
    """Their parent does not participate."""
    parent = leader(starts=False)
    names = set()
    for _ in range(2):
        parent.tell("fork in C:campaign")
        names |= {parent.hears("did")["name"], parent.hears("child")["name"]}
    assert len(names) == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, FINE)])
def test_s19_a_signal_to_a_child_ends_the_child_alone(
    leader: Make, own_server: RedisServer, number: signal.Signals, code: int
) -> None:
    parent = leader()
    token = parent.hears("gain")["token"]
    parent.tell("leave children")
    for kind in ("multiprocessing", "os.fork", "C"):
        os.kill(parent.hears("child", kind=kind)["pid"], number)
        ended = parent.hears("ended", kind=kind)
        assert (ended["code"], ended["leads"]) == (code, True)
    check_goes_on(parent, token, own_server)


IMPORTS = """
import sys, threading
import redis
from django_leader.protocol.config import Config
from django_leader.runtime.election import LeaderElection

election = LeaderElection(redis.Redis(port=int(sys.argv[1])), Config(quarantine=0))

@election.on_become_leader
async def work():
    pass

imported = []

def hook(event, args):
    if event == "import" and threading.current_thread() is not threading.main_thread():
        imported.append(args[0])

sys.addaudithook(hook)
election.start()
assert election.wait_for_leadership(90)
election.stop()
print(imported)
"""


def test_what_an_election_needs_is_imported_before_its_threads_start(own_server: RedisServer) -> None:
    """A process that is forked while another thread imports something waits for ever when it imports that."""
    command = [sys.executable, "-c", IMPORTS, str(own_server.port)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("how", ["by hand", "AUTOSTART"])
def test_s19_the_fork_server_does_not_participate_but_its_children_do(
    own_server: RedisServer, tmp_path: Path, how: str
) -> None:
    """Since Python 3.14 it is the default, and imports the main program, so all that starts at import starts there."""
    (tmp_path / "starts.py").write_text(BY_HAND if how == "by hand" else BY_SETTING)
    (tmp_path / "program.py").write_text(FORKING_PROGRAM)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO"))}
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**clean, "PYTHONPATH": f"{ROOT}:{tmp_path}", "REDIS": str(own_server.port)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("led\nled\n", 0), done.stderr
    assert [kind for kind, _, _ in history(own_server)] == ["elected", "resigned", "elected", "resigned"], done.stderr
    assert "starts in each child" in done.stderr


BY_HAND = """
import logging, os, redis
logging.basicConfig(level="INFO")
from django_leader import Config, LeaderElection
config = Config(lock_ttl=30, heartbeat_interval=1, retry_interval=0.3, quarantine=0)
election = LeaderElection(redis.Redis(port=int(os.environ["REDIS"])), config)
election.start()
"""
BY_SETTING = """
import logging, os, django
from django.conf import settings
logging.basicConfig(level="INFO")
settings.configure(
    INSTALLED_APPS=["django_leader"],
    LOGGING_CONFIG=None,
    CACHES={"default": {
        "BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"redis://127.0.0.1:{os.environ['REDIS']}"
    }},
    LEADER_ELECTIONS={"default": {"AUTOSTART": True, "LOCK_TTL": 30, "RETRY_INTERVAL": 0.3, "QUARANTINE": 0}},
)
django.setup()
from django_leader import elections
election = elections["default"]
"""
FORKING_PROGRAM = """
import multiprocessing

def work():
    import starts
    assert starts.election.wait_for_leadership(90)
    print("led", flush=True)

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["starts"])  # as it does with the main program in later versions
    for _ in range(2):
        child = context.Process(target=work)
        child.start()
        child.join()
        assert child.exitcode == 0
"""
