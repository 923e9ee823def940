"""``leading()`` and ``following()``: what they decorate, and what they refuse."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from django_leader import elections, is_leader
from django_leader.testing import following, leading, real_elections


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert is_leader() is False
    assert elections["default"].overridden is None


@leading()
def test_as_a_decorator() -> None:
    assert is_leader() is True
    assert elections["default"].lease_left > 1e6


def test_a_coroutine_function_runs_within_it() -> None:
    @leading()
    async def leads() -> bool:
        before = is_leader()
        await asyncio.sleep(0)
        return before and is_leader()

    assert asyncio.run(leads()) is True


def test_an_object_whose_call_is_a_coroutine_function_runs_within_it() -> None:
    class Leads:
        async def __call__(self) -> bool:
            return is_leader()

    leads = leading()(Leads())
    assert asyncio.run(leads()) is True


def test_it_is_an_asynchronous_context_manager_too() -> None:
    async def leads() -> bool:
        async with leading():
            return is_leader()

    assert asyncio.run(leads()) is True


def test_a_generator_function_is_within_it_until_it_ends() -> None:
    @contextmanager
    @leading()
    def led() -> Iterator[bool]:
        try:
            yield is_leader()
        except ZeroDivisionError:
            seen.append(is_leader())

    seen: list[bool] = []
    with led() as leads:
        assert leads is is_leader() is True
        raise ZeroDivisionError
    assert seen == [True]  # type: ignore[unreachable]


@pytest.mark.parametrize(
    "function",
    [is_leader, functools.partial(is_leader, "default"), lambda: is_leader(), elections["default"].is_leader],
)
def test_whatever_can_be_called_can_be_decorated(function: Callable[[], bool]) -> None:
    assert leading()(function)() is True


def test_static_and_class_methods_stay_what_they_are() -> None:
    class Methods:
        @leading()
        @staticmethod
        def static() -> bool:
            return is_leader()

        @leading()
        @classmethod
        def of_class(cls) -> tuple[type, bool]:
            return cls, is_leader()

        @staticmethod
        @leading()
        def inner() -> bool:
            return is_leader()

    assert Methods.static() is Methods().static() is Methods.inner() is True
    assert Methods.of_class() == Methods().of_class() == (Methods, True)


def test_a_decorated_function_keeps_its_name_arguments_and_marks() -> None:
    @leading()
    @pytest.mark.filterwarnings("error")
    def named(a: int, *, b: int = 2) -> int:
        return a + b

    assert (named.__name__, named(1, b=3)) == ("named", 4)
    assert [mark.name for mark in named.pytestmark] == ["filterwarnings"]  # type: ignore[attr-defined]


async def _asynchronous_generator() -> AsyncIterator[None]:
    yield


@pytest.fixture
def a_fixture() -> int:
    return 1


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "cannot decorate 5"),
        (property(is_leader), "cannot decorate <property"),
        (_asynchronous_generator, "asynchronous generator .*; write 'with leading.*:' around its yield"),
        (a_fixture, "is a pytest fixture already; write @pytest.fixture above @leading"),
        (type("Command", (), {}), "class .*Command.* has no tests; decorate"),
    ],
)
def test_what_could_not_run_within_it_is_refused_where_it_is_written(target: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        leading()(target)


def test_a_function_that_returns_what_runs_later_is_refused_when_called() -> None:
    async def later() -> None:
        raise AssertionError("it would not be within")

    with pytest.raises(TypeError, match="returned a coroutine, which would run after"):
        leading()(lambda: later())()  # type: ignore[unused-coroutine]
    with pytest.raises(TypeError, match="returned a generator, which would run after"):
        leading()(lambda: (x for x in "ab"))()


@pytest.mark.parametrize("make", [leading, following])
def test_forgotten_parentheses_are_refused(make: Any) -> None:
    with pytest.raises(TypeError, match=rf"write @{make.__name__}\(\), with parentheses"):
        make(is_leader)
    with pytest.raises(TypeError, match="using is 5; give the alias of an election"):
        make(5)


@pytest.mark.parametrize(("token", "error"), [("7", TypeError), (True, TypeError), (0, ValueError), (-1, ValueError)])
def test_a_token_that_no_election_gives_is_refused(token: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="token is "):
        leading(token=token)


def test_real_elections_takes_no_alias() -> None:
    with pytest.raises(TypeError):
        real_elections("default")  # type: ignore[call-arg]
