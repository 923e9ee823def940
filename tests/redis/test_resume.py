"""An election that a signal has ended, in a process that lives on."""

from __future__ import annotations

import redis

from django_leader import Config, LeaderElection
from tests.support.servers import RedisServer, eventually

LONG = 20.0


def test_only_what_a_signal_has_ended_is_a_candidate_again(some_server: RedisServer) -> None:
    election = LeaderElection(redis.Redis(port=some_server.port), Config(quarantine=0))
    election.start()
    election.resume()
    assert election.wait_for_leadership(LONG)
    election.ask_to_stop()
    eventually(lambda: not election.running)
    election.resume()
    assert election.wait_for_leadership(LONG)
    election.ask_to_stop()
    eventually(lambda: not election.running)
    election.stop()
    election.resume()
    assert not election.running


def test_what_a_thread_does_is_waited_for_before_the_loss_callbacks(some_server: RedisServer) -> None:
    election = LeaderElection(redis.Redis(port=some_server.port), Config(quarantine=0))
    told: list[str] = []
    election.on_lose_leadership(lambda: told.append("callback"))
    election.start()
    assert election.wait_for_leadership(LONG)
    detach = election.attach(lambda token, reason: told.append(f"{token == grant.token} {reason}"))
    grant = election.grant
    inside = election.runs_here
    election.stop()  # returns at once: this thread is waited for
    eventually(lambda: not election.running)
    detach()
    assert (inside, election.runs_here) == (True, False)
    assert told == ["True resigned", "callback"]
    assert grant.left(0.0) == 0.0 < grant.deadline
