"""The snippets that need no project of their own do what their page says when they are run as printed."""

from __future__ import annotations

import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
import redis
from django.core.checks import Error
from django.core.management import call_command
from django.dispatch import Signal
from pytest_django import Settings

from django_leader import Config, LeaderElection, became_leader, elections, is_leader, lost_leadership
from django_leader.checks import check_elections
from django_leader.registry import jobs
from django_leader.settings import KEYS
from django_leader.testing import following, leading
from tests.docs.pages import GIVEN, Block, block, blocks
from tests.support.servers import GENEROUS, RedisServer, eventually


def run(text: str, name: str = "snippet", **given: Any) -> types.ModuleType:
    """The module that ``text`` is, with ``given`` in the place of what a reader's project would have."""
    module = types.ModuleType(name)
    module.__file__ = __file__
    exec(compile(GIVEN, "<given>", "exec"), vars(module))
    vars(module).update(given)
    exec(compile(text, f"<{name}>", "exec"), vars(module))
    return module


@contextmanager
def receivers_of(*signals: Signal) -> Iterator[None]:
    """Disconnects at the end what was connected within."""
    before = [list(signal.receivers) for signal in signals]
    yield
    for signal, receivers in zip(signals, before, strict=True):
        signal.receivers = receivers
        signal.sender_receivers_cache.clear()


@pytest.mark.parametrize("found", blocks(), ids=lambda found: f"{found.page}:{found.line}")
def test_every_snippet_is_python(found: Block) -> None:
    compile(found.text, f"<{found.page}>", "exec")


def test_the_settings_of_the_first_lines_pass_the_check(settings: Settings) -> None:
    module: Any = run(block("README", "# settings.py"))
    assert module.INSTALLED_APPS[0] == "django_leader"
    settings.CACHES = module.CACHES
    assert [message for message in check_elections() if isinstance(message, Error)] == []


def test_the_settings_of_the_reference_are_the_defaults(settings: Settings) -> None:
    module: Any = run(block("reference/settings", '"SERVING_COMMANDS"'))
    settings.LEADER_ELECTIONS = module.LEADER_ELECTIONS
    assert [message for message in check_elections() if isinstance(message, Error)] == []
    of_reference = elections["default"].config
    settings.LEADER_ELECTIONS = {"default": {}}
    assert of_reference.redis_key_name == elections["default"].config.redis_key_name
    assert of_reference.timing == elections["default"].config.timing
    assert set(module.LEADER_ELECTIONS["default"]) == set(KEYS)


def test_the_local_check_sends_in_the_leader_only() -> None:
    sent: list[bool] = []
    for scope in (leading(), following()):
        with scope:
            run(block("README", "# anywhere"), send_newsletters=lambda: sent.append(is_leader()))
    assert sent == [True]


def test_the_job_runs_in_the_leader(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_known": {}, "_specs": {}, "_discoverer": 1}.items():
        monkeypatch.setattr(jobs, name, value)
    jobs._discovered.set()
    sent: list[bool] = []
    text = block("README", "@periodic(every=300)").replace("every=300", "every=1")
    run(text, send_newsletters=lambda: sent.append(is_leader()))
    elections["default"].start()
    eventually(lambda: len(sent) > 1, "the leader runs the job")
    elections["default"].stop()
    assert all(sent)


def test_the_recipe_for_a_scheduler_works_in_every_term(project: Settings, some_server: RedisServer) -> None:
    """And in none between them, in which another process leads."""
    text = block("README", "BackgroundScheduler()")
    assert "minutes=5" in text
    election, runs = elections["default"], list[int | None]()
    config = election.config
    other = LeaderElection(
        redis.Redis(port=some_server.port),
        Config(config.redis_key_name, config.redis_info_key_name, 6, 0.4, 0.3, "other", "other-host", 0),
    )
    with receivers_of(became_leader, lost_leadership):
        run(
            text.replace("minutes=5", "seconds=0.02"),
            send_newsletters=lambda: runs.append(election.fencing_token),
        )
        election.start()
        tokens = []
        for _ in range(3):
            assert election.wait_for_leadership(GENEROUS)
            tokens.append(token := election.fencing_token)
            eventually(lambda: runs.count(token) > 2, f"the job runs in the term {token}")
            other.start()
            eventually(lambda: election.status().candidates == 2)
            election.resign()
            assert other.wait_for_leadership(GENEROUS)
            assert "APScheduler" not in [thread.name for thread in threading.enumerate()]
            between = len(runs)
            other.stop()
            assert len(runs) == between or election.is_leader()
        assert election.wait_for_leadership(GENEROUS)
        election.stop()
    assert len(set(tokens)) == 3


def test_the_command_is_guarded() -> None:
    module: Any = run(block("README", "@leader_required(hold=30)"), "management.commands.nightly")
    for scope, said in ((leading("command:nightly"), ""), (following("command:nightly"), "Not run: ")):
        with scope:
            err = StringIO()
            call_command(module.Command(), stderr=err, no_color=True)
            assert err.getvalue()[:9] == said
