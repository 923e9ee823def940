"""A ``@leader_required`` command that a test calls campaigns on no Redis, unless the test says so."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from django_leader import LeaderElection, LeaderError, elections
from django_leader.exceptions import OverrideMissing
from django_leader.startup.autostart import is_test_process
from django_leader.testing import following, leading, real_elections
from tests.commands.management.commands import guarded, guarded_class
from tests.support.inner_tests import Project


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The elections that have started instead of going to Redis."""
    names: list[str] = []
    monkeypatch.setattr(LeaderElection, "start", lambda election: names.append(election.name))
    monkeypatch.setattr(LeaderElection, "status", lambda election: pytest.fail("it asks Redis"))
    guarded.runs.clear()
    return names


def test_a_command_without_an_override_raises_and_says_what_to_do(started: list[str]) -> None:
    """It sends nothing to Redis."""
    with pytest.raises(OverrideMissing) as error:
        call_command("guarded")
    text = str(error.value)
    assert "'command:guarded'" in text
    assert "with leading('command:guarded'):" in text
    assert "following('command:guarded')" in text
    assert "real_elections()" in text
    assert (started, guarded.runs) == ([], [])


def test_the_error_is_no_command_error() -> None:
    """A test may expect a ``CommandError``, and would take this error for it."""
    from django.core.management.base import CommandError

    assert issubclass(OverrideMissing, LeaderError)
    assert not issubclass(OverrideMissing, CommandError)


@pytest.mark.parametrize("override", [leading, following])
def test_an_override_for_another_election_does_not_help(started: list[str], override: Any) -> None:
    with override(), override("command:other"), pytest.raises(OverrideMissing):
        call_command("guarded")
    assert started == []


def test_so_does_a_command_in_an_election_that_is_named(started: list[str]) -> None:
    with leading("command:guarded_default"), pytest.raises(OverrideMissing, match="with leading\\('default'\\):"):
        call_command("guarded_default")
    with leading():
        call_command("guarded_default")


def test_in_a_thread_that_a_test_has_started_it_raises_too(started: list[str]) -> None:
    def call() -> None:
        try:
            call_command("guarded")
        except OverrideMissing as error:
            errors.append(error)

    errors: list[Exception] = []
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert len(errors) == 1


def test_real_elections_lets_commands_campaign_until_the_last_use_ends(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LeaderElection, "wait_for_leadership", lambda election, timeout: True)

    @real_elections()
    def campaign() -> None:
        call_command("guarded_default")

    with real_elections():
        campaign()
        campaign()
    assert started == ["default", "default"]
    with pytest.raises(OverrideMissing):
        call_command("guarded_default")


def test_within_real_elections_an_override_still_counts(started: list[str]) -> None:
    with following("command:guarded"), real_elections():
        call_command("guarded", stderr=StringIO())
    assert (started, guarded.runs) == ([], [])


def test_an_election_that_a_test_starts_itself_starts() -> None:
    elections["default"].start()
    try:
        assert elections["default"].running
    finally:
        elections.reset()


def test_a_guarded_command_goes_by_the_override() -> None:
    guarded.runs.clear()
    with leading("command:guarded"):
        assert call_command("guarded", stdout=StringIO()) == "done"
    err = StringIO()
    with following("command:guarded"):
        assert call_command("guarded", stderr=err, no_color=True) is None
    assert err.getvalue() == "Not run: the test says that this process does not lead\n"
    assert len(guarded.runs) == 1


def test_within_an_override_nothing_watches_over_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(guarded_class, "body", [lambda: names.extend(thread.name for thread in threading.enumerate())])
    with leading("command:guarded_class"):
        call_command("guarded_class")
    assert names
    assert not [name for name in names if "interrupt" in name]


@pytest.fixture
def inner(tmp_path: Path) -> Project:
    return Project(tmp_path)


INNER = """
    import unittest
    from concurrent.futures import ThreadPoolExecutor
    from io import StringIO
    from django.core.management import call_command
    from django.test import SimpleTestCase
    from django_leader.exceptions import OverrideMissing
    from django_leader.testing import following, leading

    class Nightly(SimpleTestCase):
        def test_it_raises(self):
            with self.assertRaises(OverrideMissing):
                call_command("nightly")

        @leading("command:nightly")
        def test_it_runs(self):
            assert call_command("nightly", stdout=StringIO()) == "ran"

        @following("command:nightly")
        def test_it_does_not_run(self):
            assert call_command("nightly", stderr=StringIO()) is None
"""
MAIN = """
    if __name__ == "__main__":
        import django
        django.setup()
        unittest.main()
"""
THREAD = """
    class Thread(SimpleTestCase):
        def test_it_raises_in_a_thread_too(self):
            with ThreadPoolExecutor() as pool, self.assertRaises(OverrideMissing):
                pool.submit(call_command, "nightly").result()
"""


def test_under_djangos_runner_a_command_raises_or_goes_by_the_override(inner: Project) -> None:
    assert inner.manage_test(INNER + THREAD) == "4 OK"


def test_under_pytest_without_its_plugin_for_django_too(inner: Project) -> None:
    setup = "import django; django.setup()\n" + "\n".join(line[4:] for line in (INNER + THREAD).splitlines())
    inner.write_tests(setup)
    options = ("-p", "no:django", "-p", "no:cacheprovider", "-q", "app/tests.py")
    done = inner.run("-m", "pytest", *options, DJANGO_SETTINGS_MODULE="project_settings")
    assert "4 passed" in done.stdout, done.stdout


@pytest.mark.parametrize("how", [("-m", "unittest", "app.tests"), ("app/tests.py",)])
def test_under_unittest_alone_too(inner: Project, how: tuple[str, ...]) -> None:
    inner.write_tests(INNER + MAIN)
    (inner.folder / "app" / "__init__.py").write_text("import django; django.setup()" if "-m" in how else "")
    done = inner.run(*how, DJANGO_SETTINGS_MODULE="project_settings")
    assert "Ran 3 tests" in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def test_a_real_process_that_a_test_starts_is_not_refused(inner: Project) -> None:
    assert "PYTEST_VERSION" in os.environ
    done = inner.run("manage.py", "nightly", **{name: os.environ[name] for name in os.environ if "PYTEST" in name})
    assert "OverrideMissing" not in done.stderr
    assert done.returncode == 2, "it has campaigned on a Redis that is not there: " + done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import pytest",  # as an application may, outside of a test run
        "from django.core import mail; mail.outbox = []",  # as the mail backend for tests does, also in production
        "import unittest, django.test.utils",
    ],
)
def test_what_production_may_have_of_tests_is_no_test_run(code: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    ask = f"{code}\nfrom django_leader.startup.autostart import is_test_process; print(is_test_process())"
    done = subprocess.run([sys.executable, "-c", ask], env=clean, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_a_test_that_clears_the_environment_is_a_test_still(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTEST_VERSION", "PYTEST_CURRENT_TEST"):
        monkeypatch.delenv(name, raising=False)
    assert is_test_process()
