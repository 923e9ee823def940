"""LeaderElection in one process: the seed's methods, the order of things, and odd uses."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import fakeredis
import pytest
import redis

from django_leader import Config, LeaderElection, LeaderError, RedisUnavailable
from django_leader.protocol import machine, requests
from django_leader.protocol.records import LeaderInfo, Preconditions
from django_leader.redis.channel import Channel
from django_leader.redis.connector import connector
from django_leader.redis.lease import Lease
from django_leader.runtime import election as election_module
from django_leader.runtime import worker
from django_leader.runtime.candidacy import Candidacy
from django_leader.runtime.lifecycle import lifecycle
from django_leader.runtime.worker import Actions
from django_leader.system import clock
from django_leader.system.forks import Forked
from django_leader.system.sigterm import Sigterm
from django_leader.system.waker import Waker
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually

FAST = {"lock_ttl": 3.0, "heartbeat_interval": 0.4, "retry_interval": 0.3, "quarantine": 0}
Make = Callable[..., LeaderElection]


@pytest.fixture
def make(some_server: RedisServer) -> Iterator[Make]:
    """Makes elections on a real server, and stops them."""
    made: list[LeaderElection] = []

    def make(client: Any = None, **options: Any) -> LeaderElection:
        made.append(LeaderElection(client or redis.Redis(port=some_server.port), Config(**{**FAST, **options})))
        return made[-1]

    yield make
    for election in made:
        election.stop()


def test_the_methods_of_the_seed(make: Make) -> None:
    election = make(instance_id="web-1", hostname="host-1")
    gained, lost = threading.Event(), threading.Event()

    @election.on_become_leader
    def on_gain() -> None:
        gained.set()

    @election.on_lose_leadership
    def on_loss() -> None:
        lost.set()

    assert (election.is_leader(), election.get_leader_id(), election.get_leader_info()) == (False, "", None)
    thread = threading.Thread(target=election.run)
    thread.start()
    assert gained.wait(GENEROUS)
    assert election.is_leader()
    assert election.get_leader_id() == election.get_instance_id() == election.instance_id == "web-1"
    info = election.get_leader_info()
    assert info
    assert (info.hostname, info.fencing_token) == ("host-1", election.fencing_token)
    assert 0 < election.lease_left <= FAST["lock_ttl"]
    election.stop()
    thread.join(GENEROUS)
    assert lost.wait(GENEROUS)
    assert (election.is_leader(), election.fencing_token, election.lease_left) == (False, None, 0.0)
    assert [event.kind for event in election.history()] == ["resigned", "elected"]


def test_stop_is_idempotent_before_start_twice_and_from_two_threads(make: Make) -> None:
    election = make()
    election.stop()
    election.start()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    stops = [threading.Thread(target=election.stop) for _ in range(2)]
    for thread in stops:
        thread.start()
    for thread in stops:
        thread.join(GENEROUS)
        assert not thread.is_alive()
    election.stop()
    assert not election.running
    assert election.last_tick is None


def test_run_while_it_takes_part_already_is_an_error(make: Make) -> None:
    election = make()
    election.start()
    with pytest.raises(LeaderError, match=r"^LEADER_ELECTIONS\['default'\]: this process is a candidate already"):
        election.run()


@pytest.mark.parametrize("kind", ["gain", "loss"])
def test_stop_from_a_callback_does_not_hang(make: Make, kind: str) -> None:
    election, returned = make(), threading.Event()

    def stop() -> None:
        election.stop()
        returned.set()

    (election.on_become_leader if kind == "gain" else election.on_lose_leadership)(stop)
    election.start()
    if kind == "loss":
        assert election.wait_for_leadership(GENEROUS)
        election.resign()
    assert returned.wait(GENEROUS)
    eventually(lambda: not election.running)
    assert election.get_leader_id() == ""


def test_run_ends_gracefully_when_it_is_interrupted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    election = make()
    real = Actions.do
    done: list[str] = []

    def interrupted(self: Actions, todo: Any, hold: float) -> float:
        if todo.act == "renew" and not done:
            done.append("interrupt")
            raise KeyboardInterrupt
        return real(self, todo, hold)

    monkeypatch.setattr(Actions, "do", interrupted)
    with pytest.raises(KeyboardInterrupt):
        election.run()
    assert not election.running
    assert election.get_leader_id() == ""


def test_resign_lets_the_other_lead_and_campaigns_again_later(make: Make) -> None:
    first, second = make(instance_id="first"), make(instance_id="second")
    assert first.resign() is False
    first.start()
    assert first.wait_for_leadership(GENEROUS)
    second.start()
    assert second.wait_for_leadership(0) is False
    assert first.resign() is True
    assert second.wait_for_leadership(GENEROUS)
    second.stop()
    assert first.wait_for_leadership(GENEROUS)


def test_waiting_for_leadership_without_taking_part_is_over_at_once(make: Make) -> None:
    assert make().wait_for_leadership(None) is False


def test_one_attempt_ends_though_the_server_is_frozen(make: Make, own_server: RedisServer) -> None:
    election = make(redis.Redis(port=own_server.port))
    own_server.freeze()
    election.start()
    assert election.wait_for_leadership(0) is False
    assert election.outage
    own_server.thaw()


def test_asking_a_server_that_is_away_says_which_election(make: Make, own_server: RedisServer) -> None:
    election = make(redis.Redis(port=own_server.port))
    own_server.stop()
    with pytest.raises(RedisUnavailable, match=r"^LEADER_ELECTIONS\['default'\]: .*refused"):
        election.get_leader_info()


def test_s17_an_unexpected_exception_ends_nothing_and_is_told_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failures = Actions.do, list[Any]()

    def broken(self: Actions, todo: Any, hold: float) -> float:
        if len(failures) < 3:
            failures.append(todo)
            raise ZeroDivisionError("a bug")
        return real(self, todo, hold)

    monkeypatch.setattr(Actions, "do", broken)
    election = make()
    with caplog.at_level(logging.INFO):
        election.start()
        assert election.wait_for_leadership(GENEROUS)
        eventually(lambda: "Redis is reachable again" in caplog.text)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 2
    assert "> broken (test_election.py:" in lines[0]
    assert "a bug" not in lines[0]
    assert "Redis is reachable again" in lines[1]


@pytest.mark.parametrize("ask", [LeaderElection.is_leader, lambda e: e.fencing_token, lambda e: e.lease_left])
def test_s04_once_false_always_false_for_one_token(make: Make, monkeypatch: pytest.MonkeyPatch, ask: Any) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    token = election.fencing_token
    now = clock.now
    with monkeypatch.context() as patch:
        patch.setattr(election_module, "clock_gettime", lambda _: now() + 100)
        assert not ask(election)
    assert election.is_leader() is False, "the clock is back, the term is not"
    eventually(election.is_leader, "the next term")
    assert election.fencing_token
    assert token
    assert election.fencing_token > token


def test_s18_wall_time_plays_no_part(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    years = itertools.cycle([1970, 2900, 2026])
    odd = monkeypatch.setattr
    odd(worker, "utc_now", lambda: datetime(next(years), 1, 1, tzinfo=timezone.utc))
    odd(time, "time", lambda: float(next(years)))
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    token, start = election.fencing_token, clock.now()
    eventually(lambda: clock.now() > start + 2 * FAST["lock_ttl"])
    assert election.fencing_token == token


@pytest.mark.parametrize("handled", [True, False])
def test_s20_no_signal_handler_is_installed_but_that_of_sigterm(
    make: Make, monkeypatch: pytest.MonkeyPatch, handled: bool
) -> None:
    monkeypatch.setattr(lifecycle, "sigterm", Sigterm(list, bool, bool))  # as if nobody had started before
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        election = make(handle_sigterm=handled)
        election.start()
        assert election.wait_for_leadership(GENEROUS)
        election.stop()
        changed = [number for number, known in before.items() if signal.getsignal(number) != known]
    finally:
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])
    assert changed == [signal.SIGTERM] * handled


def test_s04_the_check_never_raises_and_takes_no_lock(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    seen: list[Any] = []

    def look() -> None:
        seen.extend([election.is_leader(), election.fencing_token, election.lease_left > 0])

    with candidacy.changed:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(GENEROUS)
    assert seen == [True, election.fencing_token, True]


def test_s16_loss_callbacks_return_before_the_next_gain(make: Make) -> None:
    election, log = make(), []
    hold = threading.Event()

    @election.on_become_leader
    def gained() -> None:
        log.append("gain")

    @election.on_lose_leadership
    def lost() -> None:
        log.append("loss")
        assert hold.wait(GENEROUS)
        log.append("loss over")

    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.resign()
    eventually(lambda: "loss" in log)
    start = clock.now()
    eventually(lambda: clock.now() > start + 3 * FAST["retry_interval"])
    assert log == ["gain", "loss"]
    hold.set()
    eventually(lambda: len(log) == 4)
    assert log == ["gain", "loss", "loss over", "gain"]


def test_a_candidacy_that_starts_again_waits_for_the_loss_callbacks_of_the_last(make: Make) -> None:
    election, hold = make(), threading.Event()
    election.on_lose_leadership(lambda: hold.wait(GENEROUS))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.stop(timeout=0.05)
    election.stop()
    election.start()
    assert election.wait_for_leadership(0) is False
    hold.set()
    assert election.wait_for_leadership(GENEROUS)


def test_s16_a_candidacy_that_starts_again_knows_of_the_term_that_the_last_was_asked_to_end(make: Make) -> None:
    """As a signal handler asks it: the last one may not have come to it yet."""
    election, told, again = make(lock_ttl=1.0), list[str](), threading.Event()

    @election.on_become_leader
    def gained() -> None:
        told.append("gain")
        if len(told) > 1:
            again.set()

    @election.on_lose_leadership
    def lost() -> None:
        again.wait(2.0)  # in which the lease runs out
        told.append("loss")

    election.start()
    assert election.wait_for_leadership(GENEROUS)
    eventually(lambda: told)
    election.ask_to_stop()
    election.start()
    eventually(lambda: len(told) == 3)
    assert told == ["gain", "loss", "gain"]


def test_a_process_that_takes_part_ticks(make: Make) -> None:
    election = make()
    assert election.last_tick is None
    election.start()
    eventually(lambda: election.last_tick is not None and election.last_tick < 1.0)


def test_a_start_that_a_signal_handler_interrupts_has_started(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the thread to run, and can be interrupted there."""
    election, start = make(), threading.Thread.start

    def interrupted(self: threading.Thread) -> None:
        start(self)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(SystemExit):
            election.start()
    assert election.running
    assert election.wait_for_leadership(GENEROUS)


def test_how_late_a_process_is_can_be_asked(make: Make) -> None:
    election = make(heartbeat_interval=0.02)
    assert election.delay == 0.0
    election.start()
    eventually(lambda: election.delay > 0.0)
    election.stop()
    assert election.delay == 0.0


def test_who_takes_no_part_can_be_asked_to_stop(make: Make) -> None:
    election = make()
    election.ask_to_stop()
    assert not election.runs_here
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    assert not election.runs_here
    election.ask_to_stop()
    eventually(lambda: not election.running)


def test_s17_a_thread_that_watches_no_longer_is_seen(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    delivery = eventually(lambda: candidacy._announcer.current)  # just behind what is_leader() reads
    eventually(lambda: election.last_tick is not None and election.last_tick < 0.6)
    with delivery._changed:  # so that the watcher cannot look
        eventually(lambda: election.last_tick is not None and election.last_tick > 0.6)
        assert election.is_leader(), "the election thread renews all the same"


def test_after_the_end_of_the_interpreter_has_begun_nothing_starts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    monkeypatch.setattr(lifecycle, "exiting", False)
    lifecycle.exit()
    assert not election.is_leader()
    election.start()
    assert not election.running


def test_an_election_works_on_fakeredis(make: Make) -> None:
    pytest.importorskip("lupa")
    server = fakeredis.FakeServer()
    first = make(fakeredis.FakeRedis(server=server), instance_id="first")
    second = make(fakeredis.FakeRedis(server=server), instance_id="second")
    first.start()
    assert first.wait_for_leadership(GENEROUS)
    second.start()
    assert second.wait_for_leadership(0) is False
    first.stop()
    assert second.wait_for_leadership(GENEROUS)


def test_a_lock_of_a_wrong_type_elects_nobody_and_is_reported(
    make: Make, some_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    some_server.client().lpush("maplefile:leader:lock", "x")
    election = make()
    with caplog.at_level(logging.WARNING):
        election.start()
        assert election.wait_for_leadership(0) is False
        eventually(lambda: "WRONGTYPE" in caplog.text)
    assert some_server.client().type("maplefile:leader:lock") == b"list"
    some_server.client().delete("maplefile:leader:lock")
    assert election.wait_for_leadership(GENEROUS)


def test_s06_one_connection_while_idle_and_none_of_the_clients(make: Make, some_server: RedisServer) -> None:
    admin = some_server.client()
    before = len(admin.client_list())
    client = redis.Redis(port=some_server.port)
    election = make(client)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    eventually(lambda: len(admin.client_list()) == before + 1)
    assert client.connection_pool._created_connections == 0
    election.stop()
    eventually(lambda: len(admin.client_list()) == before)


def test_a_lone_candidate_whose_callback_fails_stands_back(make: Make, some_server: RedisServer) -> None:
    election = make()
    gains: list[float] = []

    @election.on_become_leader
    def fails() -> None:
        gains.append(clock.now())
        raise RuntimeError("the scheduler does not start")

    election.start()
    eventually(lambda: len(gains) == 4)
    pauses = [later - earlier for earlier, later in itertools.pairwise(gains)]
    for pause, least in zip(pauses, (0.3, 0.6, 1.2), strict=True):
        assert pause > least * 0.9


def test_stop_from_a_signal_handler_of_run_hands_over(make: Make) -> None:
    election = make()
    script = (
        "import json, signal, sys, redis\n"
        "from django_leader import Config, LeaderElection\n"
        f"election = LeaderElection(redis.Redis(port={election._client.connection_pool.connection_kwargs['port']}),"  # type: ignore[union-attr]
        " Config(instance_id='runs', lock_ttl=30, quarantine=0))\n"
        "signal.signal(signal.SIGTERM, lambda *_: election.stop())\n"
        "election.on_become_leader(lambda: print('leads', flush=True))\n"
        "election.run()\n"
        "print('ended', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "leads\n"
        process.terminate()
        assert process.stdout.readline() == "ended\n"
    assert process.returncode == 0
    assert election.get_leader_id() == "", "released, and not left to run out"


def test_events_from_a_handler_that_interrupts_the_machine_are_not_lost(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    real, nested = machine.step, list[Any]()

    def interrupted(state: Any, event: Any, now: float, timing: Any) -> Any:
        after = real(state, event, now, timing)
        if not nested:
            nested.append(event)
            candidacy._apply(machine.Stop())
        return after

    monkeypatch.setattr(machine, "step", interrupted)
    eventually(lambda: candidacy.ended)
    assert election.get_leader_id() == ""


def test_while_redis_refuses_and_loss_callbacks_run_nothing_spins(make: Make, own_server: RedisServer) -> None:
    election, hold = make(redis.Redis(port=own_server.port)), threading.Event()
    election.on_lose_leadership(lambda: hold.wait(GENEROUS))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    connects: list[float] = []
    real = candidacy._lease.channel._connect

    def connect(timeout: float) -> Any:
        connects.append(timeout)
        return real(timeout)

    candidacy._lease.channel._connect = connect
    own_server.stop()
    election.resign()
    start = clock.now()
    eventually(lambda: clock.now() > start + 0.5)
    assert len(connects) <= 5
    hold.set()


def test_start_during_a_stop_takes_part_again(make: Make) -> None:
    election, again = make(), threading.Event()

    @election.on_lose_leadership
    def restart() -> None:
        if not again.is_set():
            again.set()
            election.stop()
            election.start()

    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.resign()
    assert again.wait(GENEROUS)
    assert election.wait_for_leadership(GENEROUS)


def test_a_server_that_lets_nobody_wait_is_asked_no_more_often(make: Make, some_server: RedisServer) -> None:
    admin = some_server.client()
    admin.acl_setuser("nowait", enabled=True, nopass=True, commands=["+@all", "-blpop"], keys=["*"])
    election = make(redis.Redis(port=some_server.port, username="nowait", password="x"))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    before = admin.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
    start = clock.now()
    eventually(lambda: clock.now() > start + 1.5)
    after = admin.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert after - before <= 6, "a heartbeat every 0.4 s"
    assert election.is_leader()
    election.stop()
    admin.acl_deluser("nowait")


class Fails(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        raise ValueError("a broken handler")


class Blocks(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()

    def handle(self, record: logging.LogRecord) -> bool:
        return self.end.wait(GENEROUS)


def test_s17_a_log_handler_that_raises_ends_nothing(make: Make) -> None:
    handler, logger, lost = Fails(), logging.getLogger("django_leader"), threading.Event()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        election = make()
        election.on_lose_leadership(lost.set)
        election.start()
        assert election.wait_for_leadership(GENEROUS)
        election.resign()
        assert lost.wait(GENEROUS)
        assert election.wait_for_leadership(GENEROUS)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def test_s20_a_log_handler_that_blocks_does_not_hold_up_a_stop(make: Make) -> None:
    handler, logger = Blocks(), logging.getLogger("django_leader")
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    thread = threading.Thread(target=election.resign)
    try:
        thread.start()
        eventually(lambda: not election.is_leader())
        assert election.lease_left == 0
        candidacy = election._candidacy
        assert candidacy
        assert candidacy.changed.acquire(timeout=GENEROUS)
        candidacy.changed.release()
    finally:
        handler.end.set()
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        thread.join()


def test_an_election_that_nobody_holds_is_still_there_to_be_stopped(some_server: RedisServer) -> None:
    election = LeaderElection(redis.Redis(port=some_server.port), Config(**FAST))  # type: ignore[arg-type]
    election.start()
    seen = weakref.ref(election)
    assert election.wait_for_leadership(GENEROUS)
    del election
    gc.collect()
    found = seen()
    assert found is not None
    found.stop()


def test_who_waits_for_leadership_follows_to_the_next_candidacy(make: Make, some_server: RedisServer) -> None:
    leader, election = make(), make()
    leader.start()
    assert leader.wait_for_leadership(GENEROUS)
    election.start()
    waiting = threading.Thread(target=election.wait_for_leadership, args=[None])
    waiting.start()
    eventually(lambda: election._candidacy and election._candidacy.attempts)
    election.stop()
    election.start()
    leader.stop()
    eventually(election.is_leader)
    waiting.join(GENEROUS)
    assert not waiting.is_alive()


def test_s08_what_runs_beyond_its_lease_is_not_released_early(make: Make) -> None:
    election, hold = make(), threading.Event()
    election.on_lose_leadership(lambda: hold.wait(GENEROUS))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    released: list[int] = []
    real = candidacy._lease.release

    def release(candidate_id: str, token: int, *args: Any, **kwargs: Any) -> bool:
        released.append(token)
        return real(candidate_id, token, *args, **kwargs)

    candidacy._lease.release = release  # type: ignore[method-assign]
    election.stop()
    assert released == [0], "it leaves, and lets the lease run out"
    hold.set()


def test_two_threads_that_find_themselves_in_a_fork_begin_one_candidacy(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            barrier, begun = threading.Barrier(2), list[Any]()

            def begin() -> None:
                barrier.wait()
                begun.append(election._begin())

            threads = [threading.Thread(target=begin) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            status = 42 if sum(one is not None for one in begun) == 1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


def test_s19_a_fork_before_the_first_start_takes_nothing_along(make: Make) -> None:
    election = make()
    before = election.instance_id
    election.after_fork()
    assert election.instance_id != before, "a generated name is not shared"
    election.start()
    assert election.wait_for_leadership(GENEROUS)


def test_s19_a_fork_of_which_no_hook_told_is_found_at_the_next_start(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.stop()
    before = election._candidacy
    assert before
    election._pid = before.pid = 0  # as in a child that was forked in C
    assert not election.running
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    assert election._candidacy is not before


def test_s10_a_healthy_leader_keeps_its_term_through_a_quick_restart_of_redis(
    make: Make, own_server: RedisServer
) -> None:
    election = make(redis.Redis(port=own_server.port), lock_ttl=15.0, quarantine=None)
    election.on_lose_leadership(lambda: pytest.fail("the lease went on"))
    leases = Lease(connector(own_server.client().connection_pool), election.config)
    me = "before:0123456789abcdef"
    seen = leases.campaign(me, Preconditions(), LeaderInfo("before"))
    leases.release(
        me, leases.campaign(me, Preconditions(expired_version=seen.version), LeaderInfo("before")).token, "", leave=True
    )
    leases.channel.drop()  # so that the quarantine of a new server is over
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    token = election.fencing_token
    own_server.stop()
    eventually(lambda: election.outage)
    own_server.start()
    eventually(lambda: election.history()[:1] and election.history()[0].kind == "reclaimed")
    assert (election.is_leader(), election.fencing_token) == (True, token)
    election._listeners.on_loss.clear()


def test_a_wait_that_was_cut_short_eats_no_wake_up(some_server: RedisServer) -> None:
    admin, waker = some_server.client(), Waker()
    channel = Channel(connector(redis.Redis(port=some_server.port).connection_pool), 5, waker)

    seen: set[str] = set()

    def only_a_new_one_waits() -> bool:
        waiting = {client["id"] for client in admin.client_list() if "b" in client["flags"]}
        return len(waiting) == 1 and not waiting & seen and not seen.update(waiting)  # type: ignore[func-returns-value]

    found: list[Any] = []

    def wait() -> None:
        found.append(channel.wait(requests.packed_wait(channel.pack, ["wake"]), clock.now() + GENEROUS))

    for _ in range(2):
        thread = threading.Thread(target=wait)
        thread.start()
        eventually(only_a_new_one_waits)
        waker.set()
        thread.join()
    thread = threading.Thread(target=wait)
    thread.start()
    eventually(only_a_new_one_waits, "one connection waits, not those of the waits that were cut short, too")
    admin.rpush("wake", "0")
    thread.join()
    assert found == [None, None, (b"wake", b"0")]
    channel.drop()
    waker.close()


def test_the_leader_changes_are_told_to_followers(make: Make) -> None:
    first, second = make(instance_id="first"), make(instance_id="second")
    told: list[tuple[str, str]] = []
    second.listen(lambda token: None, lambda token, reason: None, lambda old, new: told.append((old, new)))
    first.start()
    assert first.wait_for_leadership(GENEROUS)
    second.start()
    eventually(lambda: told == [("", "first")])
    first.stop()
    eventually(lambda: told == [("", "first"), ("first", "second")])


def test_many_candidates_have_one_leader_at_a_time_through_hand_overs(make: Make) -> None:
    fleet = [make(instance_id=f"web-{number}") for number in range(8)]
    for election in fleet:
        election.start()
    samples, stop = [], threading.Event()

    def sample() -> None:
        while not stop.is_set():
            samples.append(sum(election.is_leader() for election in fleet))
            time.sleep(0)

    watcher = threading.Thread(target=sample)
    watcher.start()
    tokens: list[int] = []
    for _ in range(len(fleet) - 1):
        leader = eventually(lambda: next((e for e in fleet if e.is_leader()), None))
        tokens.append(leader.fencing_token)
        leader.stop()
        fleet.remove(leader)
    stop.set()
    watcher.join()
    assert max(samples) <= 1
    assert tokens == sorted(set(tokens))


def note_who_releases(election: LeaderElection, threads: list[str]) -> Candidacy:
    """Notes the threads from which releases leave. Gives the candidacy."""
    candidacy = election._candidacy
    assert candidacy
    real = candidacy._lease.release

    def release(*args: Any, **options: Any) -> bool:
        threads.append(threading.current_thread().name)
        return real(*args, **options)

    candidacy._lease.release = release  # type: ignore[method-assign]
    return candidacy


@pytest.mark.parametrize("callbacks", [False, True])
def test_a_release_leaves_from_the_thread_that_has_nothing_more_to_do_before_it(make: Make, callbacks: bool) -> None:
    election = make()
    threads: list[str] = []
    if callbacks:
        election.on_lose_leadership(lambda: threads.append(threading.current_thread().name))
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = note_who_releases(election, threads)
    eventually(
        lambda: candidacy._lease._runner.requests.get("release") and not candidacy._io_lock.locked(), "it is idle"
    )
    election.stop()
    last = threading.current_thread().name if not callbacks else threads[0]
    assert threads == [last] * (1 + callbacks) + [f"{election.label} election"]
    assert election.get_leader_id() == ""


@pytest.mark.parametrize("callbacks", [False, True])
def test_a_slow_log_does_not_delay_the_next_leader(
    make: Make, caplog: pytest.LogCaptureFixture, callbacks: bool
) -> None:
    election = make()
    done: list[str] = []
    if callbacks:
        election.on_lose_leadership(lambda: None)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = note_who_releases(election, done)
    eventually(
        lambda: candidacy._lease._runner.requests.get("release") and not candidacy._io_lock.locked(), "it is idle"
    )

    def note(record: logging.LogRecord) -> bool:
        done.append(record.getMessage().partition(" (")[0])
        return True

    caplog.handler.addFilter(note)
    with caplog.at_level(logging.INFO, "django_leader"):
        election.stop()
    line = f"{election.label}: lost leadership: resigned"
    assert done.count(line) == 1
    if not callbacks:  # with some, who calls may tell while they run
        assert done[:2] == [threading.current_thread().name, line]


def test_nothing_is_logged_while_an_event_is_applied(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    real, inside = candidacy._apply_one, list[bool]()

    def apply_one(event: machine.AnyEvent) -> None:
        real(event)
        if isinstance(event, machine.Resign):
            election.stop()  # as from a handler that interrupts this thread

    def note(record: logging.LogRecord) -> bool:
        inside.append(candidacy._applying == threading.get_ident())
        return True

    candidacy._apply_one = apply_one  # type: ignore[method-assign]
    caplog.handler.addFilter(note)
    with caplog.at_level(logging.INFO, "django_leader"):
        election.resign()
        eventually(lambda: candidacy.ended)
        assert "lost leadership: resigned" in caplog.text
    assert not any(inside)


def test_a_signal_handler_that_stops_while_the_release_leaves_returns_at_once(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    real, stopped = candidacy._lease.release, list[bool]()

    def release(*args: Any, **options: Any) -> bool:
        if not stopped:
            stopped.append(candidacy.runs_here())
            election.stop()  # as from a handler that interrupts this thread, of which the election thread waits
        return real(*args, **options)

    candidacy._lease.release = release  # type: ignore[method-assign]
    eventually(
        lambda: candidacy._lease._runner.requests.get("release") and not candidacy._io_lock.locked(), "it is idle"
    )
    election.stop()
    assert stopped == [True]
    assert not election.running
    assert election.get_leader_id() == ""


def test_a_release_that_fails_in_the_thread_of_stop_is_made_up_for_by_time(make: Make, own_server: RedisServer) -> None:
    election = make(redis.Redis(port=own_server.port), lock_ttl=1.0, heartbeat_interval=0.3)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    own_server.freeze()
    election.stop()
    own_server.thaw()
    assert not election.running
    assert not election.is_leader()
    eventually(lambda: election.get_leader_id() == "")


def test_s08_s19_a_loss_callback_that_forks_gives_nothing_back_in_the_child(
    make: Make, some_server: RedisServer
) -> None:
    election, seen = make(), list[Any]()

    def fork() -> None:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)  # the child goes on behind this callback, as we do, and ends with its only thread
            seen.append(some_server.client().hget(election.config.keys.state, "kind"))

    election.on_lose_leadership(fork)
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    election.stop()
    assert seen == [b"lease"]
    assert election.get_leader_id() == ""


def test_s19_what_is_inherited_of_a_candidacy_does_nothing_more(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for does in (candidacy._turn, candidacy._lease.status):
                with pytest.raises(Forked):
                    does()
            candidacy._loop()
            status = 42 if (candidacy.ended, election.is_leader()) == (True, False) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
    assert election.is_leader()


def test_who_stops_does_not_connect_for_it(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    threads: list[str] = []
    candidacy = note_who_releases(election, threads)
    with candidacy._io_lock:
        candidacy._lease.channel.drop()
    election.stop()
    assert set(threads) == {f"{election.label} election"}
    assert election.get_leader_id() == ""


def test_a_signal_handler_that_stops_while_the_machine_steps_returns_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    election, stopped = make(), list[bool]()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    real = machine.step

    def interrupted(state: Any, event: Any, now: float, timing: Any) -> Any:
        if isinstance(event, machine.Resign) and not stopped:
            stopped.append(candidacy.runs_here())
            election.stop()
        return real(state, event, now, timing)

    monkeypatch.setattr(machine, "step", interrupted)
    assert election.resign() is True
    assert stopped == [True]
    eventually(lambda: candidacy.ended)
    assert election.get_leader_id() == ""
