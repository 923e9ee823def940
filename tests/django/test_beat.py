"""The election of Celery beat in a project: who takes part in it, and how a beat waits, leads and stops."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

from django_leader.handler import elections
from django_leader.settings import read
from django_leader.startup.starter import Starter
from tests.conftest import need
from tests.support.servers import GENEROUS, RedisServer, eventually

need(find_spec("celery"), "celery")

from django_leader.celery.leadership import Leadership  # noqa: E402

FAST = {
    "CACHE": "leader", "REDIS_KEY_NAME": "beat:lock", "REDIS_INFO_KEY_NAME": "beat:info", "LOCK_TTL": 3,
    "HEARTBEAT_INTERVAL": 0.4, "RETRY_INTERVAL": 0.1, "QUARANTINE": 0,
}  # fmt: skip


def declare(settings: Any, server: RedisServer, **more: Any) -> None:
    """An election ``default``, and ``more``."""
    backend = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": server.url}
    settings.CACHES = {"default": backend, "leader": backend}
    settings.LEADER_ELECTIONS = {"default": FAST, **more}


@pytest.fixture
def leadership(settings: Any, some_server: RedisServer) -> Iterator[Leadership]:
    """This process, which sends nothing."""
    declare(settings, some_server)
    made = Leadership("beat", lambda: False)
    yield made
    made.stop()


def test_beat_has_the_settings_of_default_and_keys_of_its_own(settings: Any, some_server: RedisServer) -> None:
    declare(settings, some_server)
    found = read("beat")
    assert (found.cache, found.autostart, found.config.lock_ttl) == ("leader", False, 3)
    assert found.config.redis_key_name == "beat:lock:beat"
    assert elections["beat"].label == "LEADER_ELECTIONS['beat']"
    assert list(elections) == ["default"]


def test_beat_can_be_declared(settings: Any, some_server: RedisServer) -> None:
    declare(settings, some_server, beat={"CACHE": "leader", "LOCK_TTL": 5})
    found = read("beat")
    assert (found.autostart, found.config.lock_ttl, found.config.redis_key_name) == (
        False,
        5,
        "maplefile:leader:lock:beat",
    )


@pytest.mark.parametrize("variable", ["", "1"])
def test_no_process_takes_part_in_it_by_itself(
    settings: Any, some_server: RedisServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Whatever is set: a web process that leads it would send nothing."""
    declare(settings, some_server, beat={**FAST, "AUTOSTART": True})
    monkeypatch.setenv("DJANGO_LEADER_AUTOSTART", variable)
    starter = Starter()
    starter._decide()
    assert starter.decisions["beat"].start == "never"
    assert starter.decisions["beat"].why == "only the scheduler of Celery beat takes part in this election"
    assert starter.situation_of("beat") is None


def test_the_command_explains_it(settings: Any, some_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    declare(settings, some_server)
    call_command("leader_status", "beat", "--explain")
    lines = capsys.readouterr().out.splitlines()[1:-1]
    assert len(lines) >= 7
    assert all("never" in line and "only the scheduler of Celery beat" in line for line in lines)


def test_another_election_must_not_start_by_itself(settings: Any, some_server: RedisServer) -> None:
    declare(settings, some_server, other={**FAST, "REDIS_KEY_NAME": "", "REDIS_INFO_KEY_NAME": ""})
    with pytest.raises(ImproperlyConfigured, match=r"\['other'\] starts by itself.*Set its AUTOSTART to False"):
        Leadership("other", lambda: False).start()


def test_settings_that_cannot_be_used_are_told(settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.LEADER_ELECTIONS = {"default": {}}
    with pytest.raises(ImproperlyConfigured, match="an election needs"):
        Leadership("beat", lambda: False).start()


def test_it_waits_leads_and_stops(leadership: Leadership) -> None:
    assert (leadership.term(), leadership.access()) == (None, None)
    leadership.stop()
    leadership.resign()
    handler = signal.getsignal(signal.SIGTERM)
    leadership.start()
    leadership.start()
    assert signal.getsignal(signal.SIGTERM) is handler, "beat saves its schedule before it hands over"
    eventually(leadership.term, "it leads")
    assert leadership.access()
    leadership.resign()
    eventually(lambda: leadership.term() is None, "it has resigned")
    eventually(leadership.term, "it leads again")
    leadership.stop()
    assert leadership.term() is None


def test_a_wait_ends_when_the_term_begins(leadership: Leadership) -> None:
    leadership.start()
    leadership.wait(GENEROUS)
    assert leadership.term()


def test_a_release_waits_for_what_is_being_sent(settings: Any, some_server: RedisServer) -> None:
    declare(settings, some_server, beat={**FAST, "LOCK_TTL": 60, "HEARTBEAT_INTERVAL": 1})
    sending = [True]
    leadership = Leadership("beat", lambda: sending[0])
    leadership.start()
    eventually(leadership.term, "it leads")
    stopped = threading.Thread(target=leadership.stop)
    stopped.start()
    eventually(lambda: leadership.term() is None, "it leads no more")
    time.sleep(0.2)
    assert stopped.is_alive()
    assert elections["beat"].status().leader, "the lease is kept"
    sending.clear()
    sending.append(False)
    stopped.join(GENEROUS)
    assert elections["beat"].status().leader is None
