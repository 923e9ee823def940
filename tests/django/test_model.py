"""The model without a table: what works on every model of a project works on it, and finds nothing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.core.paginator import Paginator
from django.db import NotSupportedError, connection, models
from django.db.migrations.executor import MigrationExecutor
from django.test.utils import CaptureQueriesContext

from django_leader.models import Election
from tests.support.candidates import ROOT

PROJECT = """
import sys
from django.conf import settings
settings.configure(
    SECRET_KEY="x",
    INSTALLED_APPS=["django_leader", "django.contrib.contenttypes", "django.contrib.auth"],
    DATABASES={
        name: {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "TEST": {"NAME": f"{name}-test"}}
        for name in ("default", "other")
    },
    CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}},
    USE_TZ=True,
    TEST_NON_SERIALIZED_APPS=[],
)
from django.core.management import execute_from_command_line
for line in sys.argv[1:]:
    print(f"\\n$ {line}", flush=True)
    execute_from_command_line(["manage.py", *line.split()])
"""
TESTS = """
from django.apps import apps
from django.contrib.auth.models import Group
from django.test import TransactionTestCase


class RollbackTests(TransactionTestCase):
    databases = {"default", "other"}
    serialized_rollback = True

    def test_first(self):
        Group.objects.create(name="g")
        assert all(model.objects.using("other").count() >= 0 for model in apps.get_models())

    def test_second(self):
        assert not Group.objects.exists()
"""
ASKED: dict[str, Callable[[Any], Any]] = {
    "all": lambda manager: list(manager.all()),
    "aggregate": lambda manager: manager.aggregate(highest=models.Max("pk"))["highest"],
    "count": lambda manager: manager.count(),
    "dates of none": lambda manager: list(manager.none()),
    "delete": lambda manager: manager.all().delete()[0],
    "exists": lambda manager: manager.exists(),
    "first": lambda manager: manager.first(),
    "in_bulk": lambda manager: manager.in_bulk(["default"]),
    "iterator": lambda manager: list(manager.order_by("-pk").iterator()),
    "last": lambda manager: manager.last(),
    "locked": lambda manager: list(manager.select_for_update().filter(pk="default")),
    "paginator": lambda manager: Paginator(manager.order_by("pk"), 10).count,
    "subquery": lambda manager: list(ContentType.objects.filter(model__in=manager.values("pk"))),
    "union": lambda manager: list(manager.values_list("pk").union(manager.values_list("pk"))),
    "update": lambda manager: manager.update(name="x"),
    "values": lambda manager: list(manager.values("pk")),
}


@pytest.mark.django_db
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("manager", ["objects", "_default_manager", "_base_manager"])
def test_whatever_is_asked_of_it_the_answer_is_nothing(manager: str, asked: str) -> None:
    assert not ASKED[asked](getattr(Election, manager))


@pytest.mark.django_db
@pytest.mark.parametrize("arguments", [[], ["--all"], ["--natural-foreign"], ["django_leader", "contenttypes"]])
def test_dumpdata_dumps_the_rest_of_the_project(arguments: list[str]) -> None:
    out = StringIO()
    call_command("dumpdata", *arguments, stdout=out)
    dumped = {row["model"] for row in json.loads(out.getvalue())}
    assert "contenttypes.contenttype" in dumped
    assert "django_leader.runtime.election" not in dumped


@pytest.mark.django_db
def test_a_content_type_names_it_and_finds_nothing() -> None:
    found = ContentType.objects.get_for_model(Election)
    assert list(found.get_all_objects_for_this_type()) == []
    with pytest.raises(Election.DoesNotExist):
        found.get_object_for_this_type(pk="default")
    assert [permission.codename for permission in Permission.objects.filter(content_type=found)] == ["view_election"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "write",
    [
        lambda: Election(pk="default").save(),
        lambda: Election(pk="default").save_base(raw=True),  # as loaddata does
        lambda: Election(pk="default").delete(),
        lambda: Election.objects.create(pk="default"),
        lambda: Election.objects.bulk_create([Election(pk="default")]),
        lambda: Election.objects.get_or_create(pk="default"),
        lambda: Election._base_manager.update_or_create(pk="default"),
    ],
)
def test_a_write_is_refused_and_says_where_elections_come_from(write: Callable[[], object]) -> None:
    with CaptureQueriesContext(connection) as queries, pytest.raises(NotSupportedError, match="LEADER_ELECTIONS"):
        write()
    assert not [query for query in queries if "django_leader_election" in query["sql"]]


@pytest.mark.django_db
def test_a_data_migration_finds_nothing_either() -> None:
    """A migration sees models as they were, with those managers only that say so."""
    executor = MigrationExecutor(connection)
    old = executor.loader.project_state(executor.loader.graph.leaf_nodes()).apps
    assert {model.__name__ for model in old.get_models() if not model._base_manager.exists()} >= {"Election"}
    with pytest.raises(NotSupportedError):
        old.get_model("django_leader", "Election")(pk="default").save()


@pytest.mark.django_db
def test_its_migration_is_complete() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_it_has_no_sequence_that_a_tool_could_reset() -> None:
    assert not isinstance(Election._meta.pk, models.AutoField)
    assert [model for model in apps.get_models() if not model._meta.managed] == [Election]


def test_a_project_with_two_databases_migrates_dumps_flushes_and_rolls_back(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(PROJECT)
    (tmp_path / "test_rollback.py").write_text(TESTS)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO"))}

    def manage(*lines: str) -> dict[str, str]:
        """What each of the commands printed. One process runs them all."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "project.py", *lines],
            cwd=tmp_path,
            env={**clean, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        printed = [part.partition("\n") for part in done.stdout.split("\n$ ")[1:]]
        assert [line for line, _, _ in printed] == [*lines]
        return {line: text for line, _, text in printed}

    for database in ("default", "other"):
        printed = manage(
            f"migrate --verbosity 0 --database {database}",
            f"dumpdata --all --database {database} contenttypes",
            f"dumpdata --database {database}",
            f"sqlflush --database {database}",
            f"flush --no-input --verbosity 0 --database {database}",
            f"inspectdb --database {database}",
            f"check --database {database}",
        )
        assert "django_leader" in printed[f"dumpdata --all --database {database} contenttypes"]
        assert "django_leader.runtime.election" not in printed[f"dumpdata --database {database}"]
        assert "django_leader" not in printed[f"sqlflush --database {database}"]
    manage("sqlsequencereset django_leader", "remove_stale_contenttypes --no-input --include-stale-apps")
    assert "Ran 2 tests" in manage("test --no-input")["test --no-input"]


def test_a_project_that_has_the_first_model_needs_no_migration() -> None:
    """There is one migration, as in the first release: nothing is to be applied where it has been."""
    folder = Path(importlib.import_module("django_leader.migrations").__path__[0])
    assert sorted(path.name for path in folder.glob("0*.py")) == ["0001_initial.py"]
