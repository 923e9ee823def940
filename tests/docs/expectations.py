"""What type checkers must find: every line that is wrong is marked, and a mark that is not needed is an error.

Not imported by any test; mypy and pyright read it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import redis
from django.core.cache import caches
from django.core.management.base import BaseCommand
from typing_extensions import assert_type

from django_leader import (
    Config,
    FencedCache,
    FencedQuerySet,
    FencedRedis,
    LeaderElection,
    LeaderInfo,
    NotRun,
    Term,
    afenced_update,
    assert_leader,
    elections,
    fenced_transaction,
    fenced_update,
    is_leader,
    leader_only,
    leader_required,
)
from django_leader.protocol.config import Timing, ValidConfig
from django_leader.runtime.local import Local, open_lease
from django_leader.testing import following, leading
from tests.databases.models import Author, Report


class Plain(BaseCommand):
    @leader_required
    def handle(self, *args: Any, **options: Any) -> None: ...


class WithArguments(BaseCommand):
    @leader_required(election="default", wait=None, hold=1, on_loss="continue", exit_code=3)
    def handle(self, *args: Any, **options: Any) -> str:
        return "done"


class OnlyCalled(BaseCommand):
    @leader_required()
    def handle(self, *args: Any, **options: Any) -> str | None: ...


@leader_required
class PlainClass(BaseCommand):
    answer = 42


@leader_required(wait=0.5)
class ClassWithArguments(BaseCommand):
    answer = 42


class Parts(BaseCommand):
    @leader_required(hold=30)
    def part(self, number: int, *, name: str = "") -> str:
        return name * number


assert_type(Plain().handle(), None)
assert_type(WithArguments().handle(), str)
assert_type(OnlyCalled().handle(), str | None)
assert_type(PlainClass, type[PlainClass])
assert_type(PlainClass().answer, int)
assert_type(ClassWithArguments(), ClassWithArguments)
assert_type(Parts().part(3, name="x"), str)
Parts().part("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Called(BaseCommand):
    def handle(self, *args: Any, **options: Any) -> None: ...


assert_type(leader_required(Called), type[Called])
assert_type(leader_required(Called, wait=3), type[Called])
assert_type(leader_required(wait=3)(Called), type[Called])

leader_required(wait="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
leader_required(on_loss="stop")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
leader_required(int)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue]
leader_required(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


class Wrong:
    @leader_required  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    async def coroutine(self) -> None: ...

    @leader_required()  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
    def generator(self) -> Iterator[str]:
        yield ""

    @leader_required  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    def number(self) -> int:  # where another leads there is none
        return 1


election = elections["default"]


@election.on_become_leader
async def gained() -> None:
    assert_type(await election.aget_leader_info(), LeaderInfo | None)


@election.on_lose_leadership
def lost() -> str:
    return "stopped"


assert_type(election, LeaderElection)
assert_type(election.fencing_token, int | None)
assert_type(is_leader("default"), bool)
assert_type(lost(), str)
is_leader(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


assert_type(election.term(), Term | None)
assert_type(assert_leader().token, int)
assert_type(election.fenced(caches["default"]), FencedCache)
assert_type(election.fenced(redis.Redis(), term=election.term()), FencedRedis)
assert_type(election.fenced(redis.Redis()).incr("a"), int)
election.fenced(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
assert_leader().lost.wait("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
str(election.term().token)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]


@leader_only
def tick(number: int, *, name: str = "") -> str:
    return name * number


@leader_only("reports")
async def report() -> int:
    return 1


@leader_only(default=None)
def optional() -> int:
    return 1


@leader_only(election="reports", default=0.5)
async def optional_report() -> int:
    return 1


class Jobs:
    @leader_only
    def method(self, number: int) -> str:
        return str(number)

    @staticmethod
    @leader_only()
    def static(number: int) -> str:
        return str(number)


assert_type(tick(3, name="x"), str | NotRun)
assert_type(optional(), int | None)
assert_type(Jobs().method(3), str | NotRun)
assert_type(Jobs.static(3), str | NotRun)
assert_type(report, Callable[[], Coroutine[Any, Any, int | NotRun]])
tick("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Jobs().method("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
leader_only(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
if result := tick(3):
    assert_type(result, str)


async def runs() -> None:
    assert_type(await report(), int | NotRun)
    assert_type(await optional_report(), int | float)


raw = Config(lock_ttl=0)
raw.timing.ttl.hex()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
open_lease(Local(), raw)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(raw.validate(), ValidConfig)
assert_type(raw.validate().timing, Timing)
assert_type(replace(raw.validate(), lock_ttl=5), ValidConfig)
assert_type(election.config, ValidConfig)
LeaderElection(Local(), election.config)


@leading()
def test_function(number: int) -> str:
    return str(number)


@following("other")
async def test_coroutine(number: int) -> str:
    return str(number)


@leading("command:nightly", token=2)
class Tests:
    answer = 42


assert_type(test_function(3), str)
assert_type(Tests().answer, int)


async def awaits() -> None:
    assert_type(await test_coroutine(3), str)


with leading():
    leading(token="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


reports = Report.objects.filter(name="nightly")
assert_type(reports, FencedQuerySet[Report])
assert_type(reports.fenced_update(token=7, text="x"), int)
assert_type(Report.objects.fenced_update(token=7, raise_if_stale=True), int)
assert_type(fenced_update(Report.objects, token=7, text="x"), int)
assert_type(fenced_update(Author.objects.values("name"), token=7, token_field="term"), int)
assert_type(Report.objects.get().fencing_token, int)
Report.objects.get().fenced_save(token=7, update_fields=["text"])
fenced_update(reports, text="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
fenced_update(reports, token=election.fencing_token)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
fenced_update(Report, token=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def awaits_writes() -> None:
    assert_type(await afenced_update(reports, token=7, text="x"), int)
    assert_type(await reports.afenced_update(token=7), int)
    await Report.objects.get().afenced_save(token=7)


with fenced_transaction(reports, token=7):
    fenced_transaction(reports, token="7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
