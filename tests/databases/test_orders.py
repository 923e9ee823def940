"""Writers of several terms that are paused before any of their statements, in orders that Hypothesis chooses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from django_leader import StaleToken, fenced_update
from tests.databases.conftest import DEFAULTS, Database
from tests.databases.models import Author, Report
from tests.support.interleaving import Turns

Write = Callable[[str, int], None]
EXAMPLES = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def update(alias: str, token: int) -> None:
    fenced_update(Report.objects.using(alias).filter(name="a"), token=token, text=str(token))


def update_joined(alias: str, token: int) -> None:
    fenced_update(Report.objects.using(alias).filter(author__name="a"), token=token, text=str(token))


def save(alias: str, token: int) -> None:
    row = Report.objects.using(alias).get()
    row.text = str(token)
    try:
        row.fenced_save(token=token)
    except StaleToken:
        assert Report.objects.using(alias).get().fencing_token > token


def check_before(alias: str, token: int) -> None:
    """The mistake that the others must not make: the comparison is in another statement."""
    rows = Report.objects.using(alias)
    if rows.get().fencing_token <= token:
        rows.update(text=str(token), fencing_token=token)


def obeys(database: Database, *writes: Write) -> None:
    """Raises an error if the token falls, or an earlier leader's text lands behind a later one's."""

    @EXAMPLES
    @given(
        st.permutations((5, 6, 7)),
        st.lists(st.sampled_from(writes), min_size=3, max_size=3),
        st.lists(st.integers(0, 2), min_size=12, max_size=12),
    )
    def any_order(tokens: list[int], chosen: list[Write], order: list[int]) -> None:
        Report.objects.using(database.name).update(text="0", fencing_token=0)
        turns, seen = Turns(), [0]

        def pausing(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            turns.step()
            result = execute(sql, params, many, context)
            if sql.startswith("UPDATE"):
                with closing(context["connection"].connection.cursor()) as cursor:  # the driver's: it does not pause
                    cursor.execute("SELECT fencing_token, text FROM databases_report")
                    token, text = cursor.fetchone()
                assert token >= seen[-1], "the token fell"
                assert text == str(token), "an earlier leader has written behind a later one"
                seen.append(token)
            return result

        def writer(write: Write, token: int, connection: BaseDatabaseWrapper) -> Callable[[], None]:
            def run() -> None:
                connections[database.name] = connection
                with connection.execute_wrapper(pausing):
                    write(database.name, token)
                    write(database.name, token)

            return run

        turns.run([writer(*each) for each in zip(chosen, tokens, own, strict=True)], order)
        assert seen[-1] == 7, "the latest leader is never refused"

    # To connect takes longer than all that a writer does, so each writer keeps its connection for the next order.
    own = [connections.create_connection(database.name) for _ in range(3)]
    try:
        for connection in own:
            connection.inc_thread_sharing()
        any_order()
    finally:
        for connection in own:
            connection.close()


@pytest.fixture(autouse=True)
def row(database: Database) -> Report:
    author = Author.objects.using(database.name).create(name="a")
    return Report.objects.using(database.name).create(name="a", author=author)


@pytest.mark.parametrize("database", DEFAULTS, indirect=True)
def test_no_order_of_statements_lets_an_earlier_leader_overwrite(database: Database) -> None:
    obeys(database, update, update_joined, save)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_check_outside_of_the_statement_would_be_found(database: Database) -> None:
    with pytest.raises(AssertionError, match="token fell"):
        obeys(database, check_before)
