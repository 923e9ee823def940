"""Databases with the tables of this folder: SQLite in a file, PostgreSQL and MariaDB, at each level of isolation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, models
from pytest_django import DjangoDbBlocker

from tests.conftest import need
from tests.databases.models import Author, Entry, Guard, LongReport, Report, Tag
from tests.support.databases import SERVERS, DatabaseServer, add_connection
from tests.support.servers import eventually

MODELS: list[type[models.Model]] = [Author, Tag, Report, LongReport, Guard, Entry]


class Database:
    """One database. The name of its connection says what it is: ``"postgresql repeatable read"``."""

    def __init__(self, name: str, settings: dict[str, Any], server: DatabaseServer | None) -> None:
        self.name, self.settings, self.server = name, settings, server
        self.kind, _, self.level = name.partition(" ")
        connection = add_connection(name, settings)
        if "databases_report" in connection.introspection.table_names():
            for model in reversed(MODELS):
                model._base_manager.using(name).delete()
            return
        if server is None:
            connection.cursor().execute("PRAGMA journal_mode = wal")
        with connection.schema_editor() as editor:
            for model in MODELS:
                editor.create_model(model)

    @property
    def fails_behind_a_snapshot(self) -> bool:
        """Whether a statement fails that meets what another transaction has written since the own one began."""
        return self.kind == "postgresql" and self.level in ("repeatable read", "serializable")

    def wait_until_one_waits(self) -> None:
        """Wait until a transaction waits for a lock. SQLite does not tell."""
        if server := self.server:

            def waiting() -> bool:
                with connections[self.name].cursor() as cursor:
                    cursor.execute(server.STATUS)
                    return server.WAITING in str(cursor.fetchall())

            eventually(waiting, "a transaction waits")


@pytest.fixture(scope="session")
def start_database() -> Iterator[Callable[[str], DatabaseServer]]:
    """Starts one server of each kind, when it is first needed."""
    started: dict[str, DatabaseServer] = {}

    def start(kind: str) -> DatabaseServer:
        if kind not in started:
            missing = SERVERS[kind].missing()
            need(not missing, missing)
            started[kind] = SERVERS[kind]()
            started[kind].start()
        return started[kind]

    yield start
    for server in started.values():
        server.close()


LEVELS = [
    "sqlite",
    "sqlite IMMEDIATE",
    *(f"postgresql {level}" for level in ("read committed", "repeatable read", "serializable")),
    *(f"mariadb {level}" for level in ("read uncommitted", "read committed", "repeatable read", "serializable")),
    "mariadb snapshot",
]
DEFAULTS = ["sqlite", "postgresql", "mariadb"]


@pytest.fixture
def database(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    django_db_blocker: DjangoDbBlocker,
    start_database: Callable[[str], DatabaseServer],
) -> Iterator[Database]:
    """An empty one; the parameter names it."""
    name: str = request.param
    kind, _, level = name.partition(" ")
    if kind == "sqlite":
        options = {"timeout": 20, **({"transaction_mode": level} if level else {})}
        server, settings = None, {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db")}
    else:
        server = start_database(kind)
        settings, options = server.settings, options_of(kind, level) if level else {}
    with django_db_blocker.unblock():
        yield Database(name, {**settings, "OPTIONS": options}, server)
        connections[name].close()
        del connections[name], connections.settings[name]


def options_of(kind: str, level: str) -> dict[str, Any]:
    """Those of the connection, as the backend of Django takes them."""
    if kind == "postgresql":
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        return {"isolation_level": IsolationLevel[level.replace(" ", "_").upper()]}
    if level == "snapshot":  # REPEATABLE READ of newer releases
        return {"isolation_level": "repeatable read", "init_command": "SET innodb_snapshot_isolation = ON"}
    return {"isolation_level": level}
