"""Signal handlers: which are installed, and what they may interrupt."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from django_leader.protocol import machine
from django_leader.protocol.session import Send
from django_leader.protocol.template import Request
from django_leader.runtime.lifecycle import lifecycle
from django_leader.runtime.worker import Worker
from django_leader.system.sigterm import Sigterm
from tests.redis.conftest import Make, eventually_idle, on_release
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer, eventually


def test_run_ends_gracefully_when_it_is_interrupted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    election = make()
    real = Worker._send
    done: list[str] = []

    def interrupted(self: Worker, todo: Send) -> float:
        if todo.request.template.name == "renew" and not done:
            done.append("interrupt")
            raise KeyboardInterrupt
        return real(self, todo)

    monkeypatch.setattr(Worker, "_send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        election.run()
    assert not election.running
    assert election.get_leader_id() == ""


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


def test_stop_from_a_signal_handler_of_run_hands_over(make: Make, some_server: RedisServer) -> None:
    election = make()
    script = (
        "import json, signal, sys, redis\n"
        "from django_leader import Config, LeaderElection\n"
        f"election = LeaderElection(redis.Redis(port={some_server.port}),"
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
            candidacy.shared.apply(machine.Stop())
        return after

    monkeypatch.setattr(machine, "step", interrupted)
    eventually(lambda: candidacy.shared.ended)
    assert election.get_leader_id() == ""


def test_a_signal_handler_that_stops_while_the_release_leaves_returns_at_once(make: Make) -> None:
    election = make()
    election.start()
    assert election.wait_for_leadership(GENEROUS)
    candidacy = election._candidacy
    assert candidacy
    stopped = list[bool]()

    def stop(request: Request) -> None:
        if not stopped:
            stopped.append(candidacy.runs_here())
            election.stop()  # as from a handler that interrupts this thread, of which the election thread waits

    on_release(candidacy, stop)
    eventually_idle(candidacy)
    election.stop()
    assert stopped == [True]
    assert not election.running
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
    eventually(lambda: candidacy.shared.ended)
    assert election.get_leader_id() == ""
