"""The snippets of the README do what it says when they are run as printed."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import types
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
import redis
from django.core.checks import Error
from django.core.management import call_command
from django.db import connection
from django.dispatch import Signal
from django.test.utils import isolate_apps
from pytest_django import Settings

from django_leader import Config, LeaderElection, became_leader, elections, is_leader, lost_leadership
from django_leader.checks import check_elections
from django_leader.settings import KEYS
from django_leader.testing import following, leading
from tests.commands.management.commands import guarded
from tests.readme.snippets import GIVEN, snippet, snippets
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


@pytest.mark.parametrize("text", [pytest.param(text, id=f"line {line}") for line, text in snippets()])
def test_every_snippet_is_python(text: str) -> None:
    compile(text, "<README>", "exec")


def test_the_settings_of_the_first_lines_pass_the_check(settings: Settings) -> None:
    module: Any = run(snippet("# settings.py"))
    assert module.INSTALLED_APPS[0] == "django_leader"
    settings.CACHES = module.CACHES
    assert [message for message in check_elections() if isinstance(message, Error)] == []


def test_the_settings_of_the_reference_are_the_defaults(settings: Settings) -> None:
    module: Any = run(snippet('"SERVING_COMMANDS"'))
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
            run(snippet("# anywhere"), send_newsletters=lambda: sent.append(is_leader()))
    assert sent == [True]


def test_the_recipe_for_a_scheduler_works_in_every_term(project: Settings, some_server: RedisServer) -> None:
    """And in none between them, in which another process leads."""
    text = snippet("# apps.py")
    assert "minutes=5" in text
    election, runs = elections["default"], list[int | None]()
    config = election.config
    other = LeaderElection(
        redis.Redis(port=some_server.port),
        Config(config.redis_key_name, config.redis_info_key_name, 6, 0.4, 0.3, "other", "other-host", 0),
    )
    with receivers_of(became_leader, lost_leadership):
        module: Any = run(
            text.replace("minutes=5", "seconds=0.02"),
            "my_app",
            send_newsletters=lambda: runs.append(election.fencing_token),
        )
        app = module.MyConfig("my_app", module)
        app.ready()
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
    module: Any = run(snippet("@leader_required(hold=30)"), "management.commands.nightly")
    for scope, said in ((leading("command:nightly"), ""), (following("command:nightly"), "Not run: ")):
        with scope:
            err = StringIO()
            call_command(module.Command(), stderr=err, no_color=True)
            assert err.getvalue()[:9] == said


@pytest.mark.django_db(transaction=True)
@isolate_apps("tests.commands")
def test_the_report_refuses_an_earlier_token(caplog: pytest.LogCaptureFixture) -> None:
    definition, use = snippet("class Report").split("\n\n\n")
    model: Any = run(definition + "\n", "tests.commands.models").Report
    with connection.schema_editor() as editor:
        editor.create_model(model)
    assert model.write("nightly", "by the seventh", 7)
    assert model.write("nightly", "by the seventh again", 7)
    assert not model.write("nightly", "by the sixth", 6)
    assert model.objects.get().text == "by the seventh again"
    with caplog.at_level(logging.WARNING):
        for scope, warned in ((following(), 0), (leading(token=6), 1), (leading(token=8), 1)):
            with scope:
                run(use, Report=model)
            assert caplog.text.count("a later leader has been here") == warned
    assert model.objects.get().fencing_token == 8
    with connection.schema_editor() as editor:
        editor.delete_model(model)


def test_the_tests_see_the_leader() -> None:
    seen: list[object] = []

    class TestCase(unittest.TestCase):
        def test(self) -> None:
            seen.append(is_leader())

    text = snippet("async def test_newsletter_async").replace("...\n", "see()\n", 2)
    module: Any = run(
        text.replace("        ...", "        see()").replace("            ...", "            see()"),
        TestCase=TestCase,
        see=lambda: seen.append(elections["default"].fencing_token),
    )
    module.test_newsletter()
    asyncio.run(module.test_newsletter_async())
    assert unittest.defaultTestLoader.loadTestsFromTestCase(module.NewsletterTests).run(unittest.TestResult())
    module.test_takeover()
    assert seen == [1, 7, True, 1, None]


def test_the_calls_of_commands_run_do_not_run_and_campaign(project: Settings) -> None:
    text = snippet('call_command("nightly")').replace("nightly", "guarded")
    guarded.runs.clear()
    err = StringIO()
    stderr, sys.stderr = sys.stderr, err
    try:
        run(text)
    finally:
        sys.stderr = stderr
    assert len(guarded.runs) == 2
    assert "Not run: the test says that this process does not lead" in err.getvalue()
    assert elections["command:guarded"].history()[-1].kind == "elected"
