"""Settings to elections, signals, and what happens when settings change."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import caches as django_caches
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from pytest_django import Settings

from django_leader import (
    LeaderElection,
    became_leader,
    elections,
    handler,
    is_leader,
    leader_changed,
    lost_leadership,
)
from django_leader.runtime import work
from django_leader.runtime.lifecycle import lifecycle
from django_leader.settings import read
from django_leader.testing import leading
from tests.django.conftest import CLUSTER_CACHE, FAST, caches
from tests.support.candidates import ROOT
from tests.support.servers import RedisServer, eventually

LONG = 20.0


def noop() -> None:
    """A callback."""


@pytest.fixture(autouse=True)
def clean() -> Any:
    yield
    elections.reset()


def test_without_the_setting_there_is_one_election_with_the_defaults(settings: Settings) -> None:
    assert list(elections) == ["default"]
    found = read("default")
    assert (found.cache, found.autostart) == ("default", "auto")
    assert elections["default"].config.redis_key_name == "maplefile:leader:lock"
    assert elections["default"] is elections["default"]
    assert is_leader() is False


@override_settings(LEADER_ELECTIONS={"default": {"LOCK_TTL": timedelta(seconds=20)}, "reports": {"RETRY_INTERVAL": 1}})
def test_several_elections_have_keys_of_their_own() -> None:
    assert list(elections) == ["default", "reports"]
    assert elections["default"].config.lock_ttl == 20
    reports = elections["reports"].config
    assert reports.redis_key_name == "maplefile:leader:lock:reports"
    assert reports.redis_info_key_name == "maplefile:leader:info:reports"
    assert (reports.retry_interval, reports.lock_ttl) == (1, 10)
    assert is_leader("reports") is is_leader(using="default") is False


@override_settings(LEADER_ELECTIONS={"default": {}, "own": {"REDIS_KEY_NAME": "a", "REDIS_INFO_KEY_NAME": "b"}})
def test_keys_that_are_named_are_used() -> None:
    assert elections["own"].config.keys[:2] == ("a", "b")


@override_settings(LEADER_ELECTIONS={"default": {"REDIS_KEY_NAME": "a:lock", "REDIS_INFO_KEY_NAME": "a:info"}})
def test_an_election_of_a_command_is_derived_from_the_default() -> None:
    election = elections["command:report"]
    assert election.config.keys[:2] == ("a:lock:command:report", "a:info:command:report")
    assert read("command:report").autostart is False
    assert list(elections) == ["default"]


@pytest.mark.parametrize(
    ("setting", "alias", "message"),
    [
        ({"default": {}}, "reports", r"^LEADER_ELECTIONS\['reports'\]: there is no such election .*'default'.*add it"),
        ({"a": {}, "b": {}}, "c", r"^LEADER_ELECTIONS\['c'\]: there is no such election \(there are: 'a', 'b'\)"),
        ({"default": {"TTL": 5}}, "default", r"^LEADER_ELECTIONS\['default'\]: unknown key 'TTL'.*LOCK_TTL"),
        ({"default": {"LOCK_TTL": "5"}}, "default", r"^LEADER_ELECTIONS\['default'\]: LOCK_TTL is '5'; give seconds"),
        ({"default": {"INSTANCE_ID": "a\n"}}, "default", r"^LEADER_ELECTIONS\['default'\]: INSTANCE_ID is"),
        ({"default": {}}, None, r"^LEADER_ELECTIONS\[None\]: there is no such election"),
        ({"default": {"SERVING_COMMANDS": "x"}}, "default", r"SERVING_COMMANDS is 'x'; give a list"),
        ({}, "default", r"^LEADER_ELECTIONS is empty"),
        ({"default": {"CACHE": 5}}, "default", r"^LEADER_ELECTIONS\['default'\]: CACHE is 5"),
        ({"default": {"AUTOSTART": "yes"}}, "default", r"^LEADER_ELECTIONS\['default'\]: AUTOSTART is 'yes'"),
        ({"default": {"AUTOSTART": 1}}, "default", r"^LEADER_ELECTIONS\['default'\]: AUTOSTART is 1"),
        ([], "default", "^LEADER_ELECTIONS must be a dict of dicts"),
        ({"default": None}, "default", "^LEADER_ELECTIONS must be a dict of dicts"),
        ({5: {}}, "default", "^LEADER_ELECTIONS must be a dict of dicts"),
        ("default", "default", "^LEADER_ELECTIONS must be a dict of dicts"),
        ({"default": {"LOCAL": 1}}, "default", r"^LEADER_ELECTIONS\['default'\]: LOCAL is 1; use True or False"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_to_do(setting: Any, alias: str, message: str) -> None:
    """An alias that is not declared is refused at once; all else by what needs Redis, so that decorators work."""
    with override_settings(LEADER_ELECTIONS=setting):
        for use in (LeaderElection.start, LeaderElection.run, LeaderElection.status):
            with pytest.raises(ImproperlyConfigured, match=message):
                use(elections[alias])


@override_settings(LEADER_ELECTIONS={"default": {"TTL": 5}})
def test_an_election_with_bad_settings_takes_callbacks_and_leads_nowhere(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "_told", set())
    election = elections["default"]
    assert election.on_become_leader(noop) is election.on_lose_leadership(noop) is noop
    assert (election.is_leader(), is_leader(), election.running) == (False, False, False)
    election.stop()
    [record] = caplog.records
    assert record.getMessage().startswith("LEADER_ELECTIONS['default']: unknown key 'TTL'; take it out")


@pytest.mark.parametrize("use", ["elections['default'].is_leader()", "elections['default'].start()"])
def test_before_django_has_settings_an_election_is_refused_and_made_later(use: str) -> None:
    code = (
        "from django.conf import settings\n"
        "from django.core.exceptions import ImproperlyConfigured\n"
        "from django_leader import elections, is_leader\n"
        f"try: {use}\n"
        "except ImproperlyConfigured as error: print(is_leader(), error)\n"
        "settings.configure(LEADER_ELECTIONS={'default': {'LOCK_TTL': 20}})\n"
        "print(elections['default'].config.lock_ttl)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("False Requested setting LEADER_ELECTIONS, but settings are not"), done.stderr
    assert done.stdout.splitlines()[1] == "20.0"


@pytest.mark.parametrize("alias", ["nowhere", None])
def test_an_unknown_alias_is_a_key_error_too(alias: Any) -> None:
    for ask in (elections.__getitem__, is_leader):
        with pytest.raises(KeyError) as error:
            ask(alias)
        assert isinstance(error.value, ImproperlyConfigured)
        assert str(error.value).endswith("there is no such election (there are: 'default'); add it to the setting")


def test_without_a_default_election_is_leader_is_false(caplog: pytest.LogCaptureFixture) -> None:
    """The log says why, once."""
    with override_settings(LEADER_ELECTIONS={"reports": {}}):
        assert (is_leader(), is_leader(), is_leader("reports")) == (False, False, False)
        assert list(elections) == ["reports"]
        assert read("default").autostart is False
        assert read("command:nightly").config.keys.lock == "maplefile:leader:lock:command:nightly"
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "is_leader('reports')" in record.getMessage()


@override_settings(LEADER_ELECTIONS={"reports": {}})
def test_a_log_filter_may_ask_who_leads(caplog: pytest.LogCaptureFixture) -> None:
    """It is answered while our own line is being logged."""
    free: list[bool] = []

    def look() -> None:
        free.append(elections._lock.acquire(blocking=False))
        if free[-1]:
            elections._lock.release()

    def ask(record: Any) -> bool:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(LONG)
        return len(free) > 5 or not is_leader()

    caplog.handler.addFilter(ask)
    try:
        assert not is_leader()
    finally:
        caplog.handler.removeFilter(ask)
    assert free == [True], "one line, and no lock is held that another thread may wait for"


@override_settings(LEADER_ELECTIONS={"default": {"LOCAL": True}})
def test_that_an_election_is_local_is_said_without_the_lock_of_starts(caplog: pytest.LogCaptureFixture) -> None:
    held: list[bool] = []

    def look(record: Any) -> bool:
        if "LOCAL is True" in record.getMessage():
            held.append(lifecycle.starting.locked())
        return True

    caplog.handler.addFilter(look)
    try:
        elections["default"].start()
    finally:
        caplog.handler.removeFilter(look)
    assert held == [False]


def test_a_test_may_override_a_default_that_is_not_declared() -> None:
    with override_settings(LEADER_ELECTIONS={"reports": {}}), leading():
        assert is_leader()


@pytest.mark.parametrize("setting", [[], {}, {"default": {"TTL": 5}}, {"default": {"LOCK_TTL": "5"}}])
def test_is_leader_is_false_with_settings_that_cannot_be_used(
    setting: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says why, once."""
    monkeypatch.setattr(handler, "_told", set())
    with override_settings(LEADER_ELECTIONS=setting):
        assert (is_leader(), is_leader()) == (False, False)
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith("LEADER_ELECTIONS")
    assert record.exc_info is None


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ("nowhere", r"^LEADER_ELECTIONS\['default'\]: CACHE is 'nowhere', which is not in CACHES"),
        ("local", r"^LEADER_ELECTIONS\['default'\]: CACHE is 'local', whose backend"),
        ("bad", r"^LEADER_ELECTIONS\['default'\]: CACHE is 'bad', which cannot be used \(ValueError\)"),
        ("cluster", r"^LEADER_ELECTIONS\['default'\]: CACHE is 'cluster': this is a Redis Cluster \(Cluster\), which"),
    ],
)
def test_a_cache_that_cannot_carry_an_election_is_refused(settings: Settings, cache: str, message: str) -> None:
    """Only what needs Redis refuses it: ``is_leader()`` is false."""
    bad = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "user:secret@localhost"}
    settings.CACHES = {**settings.CACHES, "bad": bad, "cluster": CLUSTER_CACHE}
    settings.LEADER_ELECTIONS = {"default": {"CACHE": cache}}
    assert is_leader() is False, "tests with local caches go on"
    for use in (elections["default"].start, elections["default"].get_leader_info):
        with pytest.raises(ImproperlyConfigured, match=message) as error:
            use()
        assert "secret" not in str(error.value)
    assert not elections["default"].running


def test_a_receiver_is_told_of_the_loss_only_after_the_gain(
    project: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(work, "PATIENCE", 0.01)
    log: list[str] = []
    hold, lost = threading.Event(), threading.Event()

    def slow(**kwargs: Any) -> None:
        assert hold.wait(LONG)

    def second(**kwargs: Any) -> None:
        log.append("gain")

    def on_lost(**kwargs: Any) -> None:
        log.append("loss")
        lost.set()

    became_leader.connect(slow)
    became_leader.connect(second)
    lost_leadership.connect(on_lost)
    called = threading.Event()
    try:
        election = elections["default"]
        election.on_lose_leadership(called.set)
        election.start()
        assert election.wait_for_leadership(LONG)
        election.resign()
        assert called.wait(LONG), "the callbacks do not wait for the receivers"
        assert not election.is_leader()
        assert log == []
        eventually(lambda: "a receiver of became_leader has not ended" in caplog.text)
        hold.set()
        assert lost.wait(LONG)
        assert log[:2] == ["gain", "loss"]
        election.stop()
    finally:
        became_leader.disconnect(slow)
        became_leader.disconnect(second)
        lost_leadership.disconnect(on_lost)


@override_settings(LEADER_ELECTIONS={"default": {}, "command:x": {"LOCK_TTL": 60}, "command:y": {"AUTOSTART": True}})
def test_a_configured_election_of_a_command_starts_only_if_told_to() -> None:
    """Its ``AUTOSTART`` is false unless the settings say otherwise."""
    assert read("command:x").autostart is False
    assert read("command:x").config.lock_ttl == 60
    assert read("command:y").autostart is True


def test_override_settings_takes_effect_at_once_and_stops_what_runs(project: Settings) -> None:
    before = elections["default"]
    before.start()
    assert before.wait_for_leadership(LONG)
    with override_settings(LEADER_ELECTIONS={"default": {**FAST, "REDIS_KEY_NAME": "another"}}):
        assert not before.running
        assert elections["default"].config.redis_key_name == "another"
    assert elections["default"] is not before


@pytest.mark.parametrize("backend", ["django_redis.cache.RedisCache", "django.core.cache.backends.redis.RedisCache"])
def test_both_backends_carry_an_election(backend: str, some_server: RedisServer, settings: Settings) -> None:
    settings.CACHES = caches(some_server.url, backend)
    settings.LEADER_ELECTIONS = {"default": FAST}
    election = elections["default"]
    election.start()
    assert election.wait_for_leadership(LONG)
    info = election.get_leader_info()
    assert info
    assert info.instance_id == election.get_leader_id() == election.get_instance_id()
    assert info.fencing_token == election.fencing_token


def test_the_election_uses_no_connection_of_the_cache(project: Settings, some_server: RedisServer) -> None:
    from django.core.cache import cache

    cache.set("a", 1)
    election = elections["default"]
    election.start()
    assert election.wait_for_leadership(LONG)
    pool = cache.client.get_client().connection_pool  # type: ignore[attr-defined]
    assert pool._created_connections == 1
    cache.close()


def test_signals_are_sent_in_order_with_what_they_carry(project: Settings, some_server: RedisServer) -> None:
    got: list[tuple[str, dict[str, Any]]] = []
    over = threading.Event()

    def on_became(sender: Any, **kwargs: Any) -> None:
        got.append(("became", {"sender": sender, **kwargs}))

    def on_lost(sender: Any, **kwargs: Any) -> None:
        got.append(("lost", {"sender": sender, **kwargs}))
        over.set()

    def on_changed(sender: Any, **kwargs: Any) -> None:
        got.append(("changed", {"sender": sender, **kwargs}))

    became_leader.connect(on_became)
    lost_leadership.connect(on_lost)
    leader_changed.connect(on_changed)
    try:
        election = elections["default"]
        election.start()
        assert election.wait_for_leadership(LONG)
        token = election.fencing_token
        eventually(lambda: len(got) == 2)
        election.stop()
        assert over.wait(LONG)
    finally:
        became_leader.disconnect(on_became)
        lost_leadership.disconnect(on_lost)
        leader_changed.disconnect(on_changed)
    said = dict(got)
    assert [name for name, _ in got if name != "changed"] == ["became", "lost"]
    for values in said.values():
        assert values["sender"] is LeaderElection
        assert values["using"] == "default"
        assert values["election"] is election
    assert said["became"]["fencing_token"] == said["lost"]["fencing_token"] == token
    assert said["lost"]["reason"] == "resigned"
    assert (said["changed"]["previous"], said["changed"]["current"]) == ("", election.instance_id)


def test_a_receiver_that_raises_ends_the_term_and_hinders_no_other(project: Settings) -> None:
    reasons: list[str] = []
    others, over = threading.Event(), threading.Event()

    def fails(**kwargs: Any) -> None:
        raise RuntimeError("the scheduler does not start")

    def works(**kwargs: Any) -> None:
        others.set()

    def on_lost(reason: str, **kwargs: Any) -> None:
        reasons.append(reason)
        over.set()

    became_leader.connect(fails)
    became_leader.connect(works)
    lost_leadership.connect(on_lost)
    try:
        elections["default"].start()
        assert over.wait(LONG)
        assert others.wait(LONG)
        elections["default"].stop()
    finally:
        became_leader.disconnect(fails)
        became_leader.disconnect(works)
        lost_leadership.disconnect(on_lost)
    assert reasons[0] == "callback-failed"


def test_database_connections_are_closed_behind_every_callback(
    project: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_by: list[str] = []

    class Connections:
        def close_all(self) -> None:
            closed_by.append(threading.current_thread().name)

    monkeypatch.setattr(handler, "connections", Connections())
    elections.reset()
    elections["default"].start()
    assert elections["default"].wait_for_leadership(LONG)
    elections["default"].stop()
    eventually(lambda: len(closed_by) == 3)
    assert {name.rpartition(" ")[2] for name in closed_by} == {"gain", "term", "news"}


@pytest.mark.parametrize("code", ["import django_leader", "import django_leader, django_leader.runtime.election"])
def test_importing_opens_no_connection_and_starts_no_thread(code: str) -> None:
    script = (
        "import socket, threading\n"
        "def refuse(*a, **k): raise SystemExit('a socket was made')\n"
        "real = socket.socket.connect; socket.socket.connect = refuse\n"
        "start = threading.Thread.start; threading.Thread.start = refuse\n"
        f"{code}\n"
        "assert threading.active_count() == 1\n"
        "print('fine')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


def test_manage_py_check_opens_no_connection_and_starts_no_thread() -> None:
    script = (
        "import os, socket, sys, threading\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'\n"
        "def refuse(*a, **k): raise SystemExit('a connection or a thread was made')\n"
        "socket.socket.connect = refuse; threading.Thread.start = refuse\n"
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(['manage.py', 'check'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "no issues" in done.stdout, done.stderr


def test_s10_a_healthy_leader_keeps_its_term_through_cache_clear(project: Settings) -> None:
    project.LEADER_ELECTIONS = {"default": {**FAST, "QUARANTINE": None}}
    cached, election = django_caches["default"], elections["default"]
    election.start()
    assert election.wait_for_leadership(LONG)
    token = election.fencing_token
    for _ in range(3):
        cached.clear()
        eventually(lambda: election.get_leader_id() == election.instance_id, "the leader has its lease back")
    assert (election.is_leader(), election.fencing_token) == (True, token)
    assert [event.kind for event in election.history()][:2] == ["reclaimed", "quarantined"]
