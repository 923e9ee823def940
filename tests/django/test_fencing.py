"""Fenced writes: which rows are written, with which values, and what is refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import FieldDoesNotExist, FieldError
from django.db import DatabaseError, connection, models, router, transaction
from django.db.models import Count, F, Q, QuerySet, Value
from django.db.models.functions import Concat
from django.db.models.signals import post_save, pre_save
from django.test.utils import CaptureQueriesContext
from django.utils.connection import ConnectionDoesNotExist
from pytest_django import Settings

from django_leader import (
    FencedModel,
    LeaderError,
    StaleToken,
    afenced_update,
    elections,
    fenced_transaction,
    fenced_update,
)
from django_leader.testing import following, leading
from tests.databases.models import Author, Entry, Guard, LongReport, Note, Plain, Report, Tag

TOKEN = 1_764_000_000_000_000
pytestmark = pytest.mark.django_db


def report(name: str = "nightly", token: int = 0, **values: Any) -> Report:
    return Report.objects.create(name=name, fencing_token=token, **values)


def stored(row: Report) -> tuple[str, int]:
    found = Report.objects.get(pk=row.pk)
    return found.text, found.fencing_token


def statements(call: Callable[[], Any]) -> list[str]:
    with CaptureQueriesContext(connection) as queries:
        call()
    return [query["sql"] for query in queries]


# The function


@pytest.mark.parametrize(
    ("token", "written"), [(TOKEN + 1, 1), (TOKEN, 1), (TOKEN - 1, 0)], ids=["later", "same", "earlier"]
)
def test_only_an_earlier_token_is_refused(token: int, written: int) -> None:
    row = report(token=TOKEN, text="before")
    assert fenced_update(Report.objects.filter(pk=row.pk), token=token, text="after") == written
    assert stored(row) == (("after", token) if written else ("before", TOKEN))


def test_the_comparison_and_the_write_are_one_statement() -> None:
    row = report()
    [sent] = statements(lambda: fenced_update(Report.objects.filter(pk=row.pk), token=7, text="x"))
    assert sent.startswith("UPDATE")
    assert '"fencing_token" <= 7' in sent.partition("WHERE")[2]


def test_a_refusal_does_not_break_the_transaction_around_it() -> None:
    row = report(token=8)
    with transaction.atomic():
        with pytest.raises(StaleToken):
            row.fenced_save(token=7)
        with pytest.raises(StaleToken):
            Report.objects.fenced_update(token=7, raise_if_stale=True)
        assert stored(row) == ("", 8)


def test_each_row_is_compared_with_its_own_token() -> None:
    rows = [report(str(token), token) for token in (0, 7, 8)]
    assert fenced_update(Report.objects.all(), token=7, text="x") == 2
    assert [stored(row) for row in rows] == [("x", 7), ("x", 7), ("", 8)]


def test_without_values_the_token_alone_is_raised() -> None:
    row = report(text="kept")
    assert fenced_update(Report.objects.all(), token=7) == 1
    assert stored(row) == ("kept", 7)


def test_a_field_of_another_name_holds_the_token() -> None:
    row = Plain.objects.create(term=5)
    assert fenced_update(Plain.objects.all(), token=6, token_field="term", text="x") == 1
    assert fenced_update(Plain.objects.all(), token=5, token_field="term", text="y") == 0
    row.refresh_from_db()
    assert (row.text, row.term) == ("x", 6)


def test_expressions_are_computed_by_the_database() -> None:
    row = report(text="a", number=3)
    fenced_update(Report.objects.all(), token=7, number=F("number") + 1, text=Concat(F("text"), Value("b")))
    row.refresh_from_db()
    assert (row.number, row.text) == (4, "ab")


def test_managers_and_those_of_relations_are_taken_as_querysets() -> None:
    author, tag = Author.objects.create(name="a"), Tag.objects.create(name="t")
    other, tagged = report("other"), report("tagged", author=author)
    tagged.tags.add(tag)
    assert fenced_update(author.reports, token=7, text="by relation") == 1
    assert fenced_update(author.reports.filter(text="by relation"), token=7, author=author) == 1
    assert fenced_update(tag.reports, token=8, text="by tag") == 1
    assert fenced_update(tag.reports.all(), token=7, text="late") == 0
    assert (stored(tagged), stored(other)) == (("by tag", 8), ("", 0))
    assert fenced_update(Report.objects, token=9) == 2


JOINED: dict[str, Callable[[], QuerySet[Any]]] = {
    "a foreign key": lambda: Report.objects.filter(author__name="a"),
    "either of two": lambda: Report.objects.filter(Q(author__name="a") | Q(tags__name="t")).distinct(),
    "an aggregate": lambda: Report.objects.annotate(n=Count("tags")).filter(n=1),
    "an aggregate of the row": lambda: Report.objects.annotate(n=Count("pk")).filter(n=1, text=""),
    "none of them": lambda: Report.objects.exclude(tags__name="other"),
    "an order": lambda: Report.objects.order_by("author__name"),
    "select_related": lambda: Report.objects.select_related("author"),
}


@pytest.mark.parametrize("select", JOINED.values(), ids=JOINED)
@pytest.mark.parametrize("beforehand", [False, True], ids=["in a subquery", "keys beforehand"])
def test_a_queryset_with_joins_is_compared_in_the_update_itself(
    select: Callable[[], QuerySet[Any]], beforehand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a subquery, which a database does not evaluate again after it has waited for a lock."""
    monkeypatch.setattr(connection.features, "update_can_self_select", not beforehand)
    row = report(author=Author.objects.create(name="a"))
    row.tags.add(Tag.objects.create(name="t"))
    *before, sent = statements(lambda: fenced_update(select(), token=7, text="x"))
    assert stored(row) == ("x", 7)
    assert len(before) <= beforehand
    condition = sent.partition("WHERE")[2]
    outside = condition if "(SELECT" not in condition else condition.rpartition(")")[0] + condition.rpartition(")")[2]
    assert '"databases_report"."fencing_token" <= 7' in outside
    assert 'fencing_token" <=' not in "".join(before)
    Report.objects.update(text="")
    assert fenced_update(select(), token=6, text="late") == 0


def test_no_row_is_no_refusal() -> None:
    assert fenced_update(Report.objects.none(), token=7, text="x") == 0
    assert fenced_update(Report.objects.none(), token=7, raise_if_stale=True) == 0


def test_the_error_on_demand_leaves_every_row_as_it_was() -> None:
    rows = [report("old", 5), report("new", 8)]
    with pytest.raises(StaleToken, match=r"^databases\.Report: .* token 7, .* with 8; end the work"):
        fenced_update(Report.objects.all(), token=7, raise_if_stale=True, text="x")
    assert [stored(row) for row in rows] == [("", 5), ("", 8)]
    assert fenced_update(Report.objects.all(), token=8, raise_if_stale=True, text="x") == 2
    assert issubclass(StaleToken, LeaderError)


@pytest.mark.parametrize(
    "token",
    [None, True, "7", 7.0, 0, -1, 2**53, 2**63],
    ids=lambda token: repr(token),
)
def test_what_is_no_token_is_refused(token: Any) -> None:
    row = report()
    expected = ValueError if isinstance(token, int) and token is not True else TypeError
    for call in (
        lambda: fenced_update(Report.objects.all(), token=token, text="x"),
        lambda: row.fenced_save(token=token),
        lambda: fenced_transaction(Report.objects.all(), token=token).__enter__(),
    ):
        with pytest.raises(expected, match=rf"^the fencing token is {token!r}[:;]"):
            call()
    assert stored(row) == ("", 0)


def test_the_highest_token_is_accepted() -> None:
    row = report()
    assert fenced_update(Report.objects.all(), token=2**53 - 1) == 1
    assert stored(row) == ("", 2**53 - 1)


def test_who_does_not_lead_is_told_so(settings: Settings) -> None:
    settings.LEADER_ELECTIONS = {"default": {"LOCAL": True}}
    row = report()
    with leading(token=7):
        assert fenced_update(Report.objects.all(), token=elections["default"].fencing_token or 0) == 1
    with following(), pytest.raises(TypeError, match="None: this process does not lead, so it must not write"):
        fenced_update(Report.objects.all(), token=elections["default"].fencing_token)  # type: ignore[arg-type]
    assert stored(row) == ("", 7)


UNFIT: dict[str, tuple[Callable[[], Any], str]] = {
    "sliced": (lambda: Plain.objects.all()[:3], "sliced"),
    "combined": (lambda: Plain.objects.filter(pk=1).union(Plain.objects.filter(pk=2)), r"combined by union\(\)"),
    "distinct": (lambda: Plain.objects.distinct("text"), "distinct by fields"),
    "a model": (lambda: Plain, "not for <class"),
    "an instance": (lambda: Plain(text="x"), "not for <Plain"),
}


@pytest.mark.parametrize(("select", "what"), UNFIT.values(), ids=UNFIT)
def test_what_cannot_be_updated_is_refused(select: Callable[[], Any], what: str) -> None:
    with pytest.raises(TypeError, match=f"{what}.*; give "):
        fenced_update(select(), token=7, token_field="term", text="x")


FIELDS = {
    "missing": ("fencing_token", "Plain.fencing_token does not exist; add a BigIntegerField.default=0."),
    "of a relation": ("parent__term", "Plain.parent__term does not exist"),
    "too small": ("small", "Plain.small is a PositiveIntegerField, and tokens need 53 bits; make it a BigInteger"),
    "a text": ("token", "Plain.token is a CharField"),
    "nullable": ("unknown", "Plain.unknown may be NULL, which compares with no token"),
}


@pytest.mark.parametrize(("name", "text"), FIELDS.values(), ids=FIELDS)
def test_a_field_that_holds_no_tokens_is_refused(name: str, text: str) -> None:
    """A condition that no value of a small field can miss would be left out by Django."""
    row = Plain.objects.create(small=9)
    with pytest.raises(FieldError, match=f"^databases.{text}"):
        fenced_update(Plain.objects.all(), token=TOKEN, token_field=name, text="x")
    row.refresh_from_db()
    assert row.text == ""


def test_values_that_name_the_token_are_refused() -> None:
    with pytest.raises(ValueError, match="fencing_token is what token= sets; leave it out"):
        fenced_update(Report.objects.all(), token=7, fencing_token=9, text="x")


def test_a_field_that_does_not_exist_is_refused_as_by_update() -> None:
    with pytest.raises(FieldDoesNotExist, match="no field named 'txt'"):
        fenced_update(Report.objects.all(), token=7, txt="x")


def test_a_token_in_the_table_of_a_parent_is_refused() -> None:
    """Django would send a statement for each table."""
    row = LongReport.objects.create(name="long")
    for name in ("appendix", "text"):
        values: dict[str, Any] = {name: "x"}
        with pytest.raises(FieldError, match=r"LongReport keeps fencing_token in the table of databases\.Report, and"):
            fenced_update(LongReport.objects.all(), token=7, **values)
    with pytest.raises(FieldError, match="in the table of"):
        row.fenced_save(token=7)
    assert fenced_update(Report.objects.filter(longreport__appendix=""), token=7, text="x") == 1


def test_it_can_be_awaited() -> None:
    row = report(token=5)
    first = async_to_sync(afenced_update)(Report.objects.filter(pk=row.pk), token=6, text="x")
    late = async_to_sync(Report.objects.afenced_update)(token=5, text="y")
    third = async_to_sync(Report.objects.filter(pk=row.pk).afenced_update)(token=6, number=F("number") + 1)
    assert (first, late, third, stored(row)) == (1, 0, 1, ("x", 6))
    with pytest.raises(StaleToken):
        async_to_sync(afenced_update)(Report.objects.all(), token=5, raise_if_stale=True)


# The model


def test_an_instance_is_saved_unless_a_later_leader_has_written() -> None:
    row = report(token=5)
    old, new = Report.objects.get(pk=row.pk), Report.objects.get(pk=row.pk)
    new.text = "by the new leader"
    new.fenced_save(token=8)
    old.text = "late"
    with pytest.raises(StaleToken, match=r"token 7, .* with 8"):
        old.fenced_save(token=7)
    assert stored(row) == ("by the new leader", 8)
    assert (old.text, old.fencing_token, new.fencing_token) == ("late", 5, 8)
    new.text = "again"
    new.fenced_save(token=8)
    assert stored(row) == ("again", 8)


def test_a_fenced_save_is_a_save_with_all_that_belongs_to_it() -> None:
    row, seen = report(), list[tuple[str, Any]]()

    def before(instance: Any, update_fields: Any, **_: Any) -> None:
        seen.append(("before", update_fields))

    def after(instance: Any, created: bool, **_: Any) -> None:
        seen.append(("after", created))

    pre_save.connect(before, sender=Report)
    post_save.connect(after, sender=Report)
    try:
        was, row.name = row.updated_at, " stripped "
        row.fenced_save(token=7)
        assert seen == [("before", None), ("after", False)]
        with pytest.raises(StaleToken):
            row.fenced_save(token=6)
        assert len(seen) == 3, "no signal says that a refused instance is saved"
    finally:
        pre_save.disconnect(before, sender=Report)
        post_save.disconnect(after, sender=Report)
    found = Report.objects.get()
    assert found.name == "stripped"
    assert found.updated_at > was


def test_a_fenced_save_of_some_fields_leaves_the_others() -> None:
    row = report(text="kept")
    row.number, row.text = 3, "not saved"
    row.fenced_save(token=7, update_fields=["number"])
    found = Report.objects.get()
    assert (found.number, found.text, found.fencing_token) == (3, "kept", 7)
    deferred = Report.objects.only("name").get()
    deferred.name = "renamed"
    deferred.fenced_save(token=8)
    assert (Report.objects.get().name, stored(row)) == ("renamed", ("kept", 8))


@pytest.mark.django_db(transaction=True)
def test_a_fenced_save_sends_one_statement() -> None:
    row = report()
    [sent] = statements(lambda: row.fenced_save(token=7))
    assert '"fencing_token" <= 7' in sent.partition("WHERE")[2]


def test_an_instance_can_be_saved_by_awaiting() -> None:
    row = report()
    async_to_sync(row.afenced_save)(token=7)
    with pytest.raises(StaleToken):
        async_to_sync(row.afenced_save)(token=6, update_fields=["text"])
    assert stored(row) == ("", 7)


def test_an_instance_without_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"this databases\.Report has no row yet.*get_or_create"):
        Report(name="new").fenced_save(token=7)
    assert not Report.objects.exists()


def test_a_row_that_is_gone_is_not_inserted_again() -> None:
    row = report()
    Report.objects.all().delete()
    with pytest.raises(DatabaseError, match="did not affect any rows"):
        row.fenced_save(token=7)
    assert not Report.objects.exists()


def test_an_ordinary_save_does_not_lower_the_token() -> None:
    """Of an instance that was read before the leader has written, as the admin does it."""
    row = report(token=5)
    old, some, deferred = (
        Report.objects.get(),
        Report.objects.get(),
        Report.objects.only("text", "fencing_token").get(),
    )
    fenced_update(Report.objects.all(), token=8)
    for instance, fields in ((old, None), (some, ["text", "fencing_token"]), (deferred, None)):
        instance.text = str(fields)
        instance.save(update_fields=fields)
        assert stored(row) == (str(fields), 8)
    assert fenced_update(Report.objects.all(), token=7) == 0


def test_the_token_can_be_set_by_hand() -> None:
    row = report(token=2**52)
    row.fencing_token = 3
    row.save(update_fields=["fencing_token"])
    assert stored(row) == ("", 3)


def test_a_model_that_selects_on_save_is_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Report._meta, "select_on_save", True)
    row = report(token=8)
    with pytest.raises(StaleToken):
        row.fenced_save(token=7)
    row.fenced_save(token=8)


def test_the_mixin_goes_with_managers_of_the_project() -> None:
    here, elsewhere = Note.shouting.create(text="a!"), Note.shouting.create(text="b!", shop=2)
    assert type(Note._default_manager).__name__ == "OfShop"
    assert Note.objects.fenced_update(token=7, text="A!") == 1
    assert Note.shouting.loud().fenced_update(token=6, text="late") == 1
    here.refresh_from_db()
    elsewhere.refresh_from_db()
    assert [(row.text, row.fencing_token) for row in (here, elsewhere)] == [("A!", 7), ("late", 6)]
    assert Note.shouting.fenced_update(token=8, raise_if_stale=True) == 2


def test_the_mixin_adds_one_column_and_no_table() -> None:
    assert FencedModel._meta.abstract
    field = Guard._meta.get_field("fencing_token")
    assert isinstance(field, models.PositiveBigIntegerField)
    assert (field.default, field.editable, field.null) == (0, False, False)
    assert field.deconstruct()[1] == "django.db.models.PositiveBigIntegerField", "migrations name nothing of ours"


# The transaction


@pytest.fixture
def guard() -> Guard:
    return Guard.objects.create(name="billing", fencing_token=5)


def test_a_transaction_is_refused_before_its_block(guard: Guard) -> None:
    with pytest.raises(StaleToken, match="token 4"), fenced_transaction(Guard.objects.filter(name="billing"), token=4):
        pytest.fail("the block must not run")
    with fenced_transaction(Guard.objects.filter(name="billing"), token=6):
        Entry.objects.create(text="x")
    guard.refresh_from_db()
    assert (guard.fencing_token, Entry.objects.count()) == (6, 1)


def test_a_block_that_fails_leaves_nothing_behind(guard: Guard) -> None:
    def work() -> None:
        with fenced_transaction(Guard.objects, token=6):
            Entry.objects.create(text="x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    guard.refresh_from_db()
    assert (guard.fencing_token, Entry.objects.count()) == (5, 0)


def test_a_fence_without_a_row_is_an_error() -> None:
    with pytest.raises(Guard.DoesNotExist, match=r"no row of databases\.Guard matches.*create it beforehand"):
        fenced_transaction(Guard.objects.all(), token=6).__enter__()


def test_each_of_several_rows_must_let_the_writer_pass(guard: Guard) -> None:
    Guard.objects.create(name="other", fencing_token=9)
    with pytest.raises(StaleToken), fenced_transaction(Guard.objects, token=6):
        pytest.fail("the block must not run")
    guard.refresh_from_db()
    assert guard.fencing_token == 5


@pytest.mark.django_db(transaction=True)
def test_the_block_is_in_a_transaction(guard: Guard) -> None:
    in_transaction = [connection.in_atomic_block]
    with fenced_transaction(Guard.objects, token=6):
        in_transaction.append(connection.in_atomic_block)
    assert in_transaction == [False, True]
    with transaction.atomic():
        fenced_update(Guard.objects, token=7, raise_if_stale=True)
    guard.refresh_from_db()
    assert guard.fencing_token == 7


# Routers


class Elsewhere:
    """Writes go to a database that is not there."""

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "elsewhere"

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "default"


def test_the_router_chooses_the_database(monkeypatch: pytest.MonkeyPatch) -> None:

    row = report()
    monkeypatch.setattr(router, "routers", [Elsewhere()])
    for select in (Report.objects.all(), Report.objects.filter(author__name="a")):
        with pytest.raises(ConnectionDoesNotExist, match="elsewhere"):
            fenced_update(select, token=7, text="x")
    with pytest.raises(ConnectionDoesNotExist, match="elsewhere"):
        fenced_transaction(Report.objects, token=7).__enter__()
    assert fenced_update(Report.objects.using("default"), token=7, text="x") == 1
    assert stored(row) == ("x", 7)
