"""``leading()`` on classes of tests, under pytest and Django's runner: every test of the class runs, and within it."""

from __future__ import annotations

import unittest
from pathlib import Path

import pytest
from django.test import SimpleTestCase, override_settings

from django_leader import UnknownElection, elections, is_leader
from django_leader.testing import following, leading
from tests.support.inner_classes import ISOLATED, PLAIN, TEST_CASES, TEST_CASES_COUNT
from tests.support.inner_tests import Project


@pytest.fixture
def inner(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_under_djangos_runner_every_test_of_a_class_runs_within_it(inner: Project) -> None:
    assert inner.manage_test(TEST_CASES + ISOLATED) == f"{TEST_CASES_COUNT + 1} OK"


def test_under_djangos_runner_in_parallel_processes_too(inner: Project) -> None:
    assert inner.manage_test(TEST_CASES, "--parallel", "2") == f"{TEST_CASES_COUNT} OK"


def test_under_pytest_every_test_of_a_class_runs_within_it(inner: Project) -> None:
    assert inner.pytest(TEST_CASES + ISOLATED) == f"{TEST_CASES_COUNT + 1} passed"


def test_under_pytest_a_class_without_a_base_runs_within_it(inner: Project) -> None:
    counts, _, output = inner.pytest(PLAIN).partition("\n")
    assert counts == f"{1 + 5 + 6 + 5 + 3 + 1 + 1 + 1 + 2} passed, 1 error", output


def test_the_decorator_returns_the_class_itself() -> None:
    class Case(SimpleTestCase):
        pass

    assert leading()(Case) is Case
    assert following()(Case) is Case


def test_a_class_whose_election_is_not_configured_fails_and_leaves_nothing_behind() -> None:
    @leading("jobs")
    class Case(unittest.TestCase):
        def test_it(self) -> None:
            raise AssertionError("not to be run")

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    [(_, error)] = result.errors
    assert UnknownElection.__name__ in error
    assert result.testsRun == 0
    with override_settings(LEADER_ELECTIONS={"default": {}, "jobs": {}}):
        assert elections["jobs"].overridden is None


def test_a_set_up_that_fails_leaves_nothing_behind() -> None:
    @leading()
    class Case(unittest.TestCase):
        @classmethod
        def setUpClass(cls) -> None:
            raise ZeroDivisionError

        def test_it(self) -> None: ...

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    assert len(result.errors) == 1
    assert is_leader() is False


def test_a_class_that_defines_how_it_is_subclassed_goes_on_doing_so() -> None:
    @leading()
    class Base(unittest.TestCase):
        kinds: list[str] = []  # noqa: RUF012

        def __init_subclass__(cls, kind: str = "") -> None:
            super().__init_subclass__()
            cls.kinds.append(kind)

    class _Case(Base, kind="own"):
        pass

    assert Base.kinds == ["own"]
