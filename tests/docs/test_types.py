"""A project that is checked strictly has no complaint of ours: mypy and pyright read what a reader would write."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import need
from tests.readme.snippets import GIVEN, snippets
from tests.support.candidates import ROOT

EXPECTATIONS = ROOT / "tests" / "readme" / "expectations.py"
SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["shop"]
USE_TZ = True
"""
MYPY = """
[mypy]
strict = true
plugins = mypy_django_plugin.main
[mypy-apscheduler.*]
ignore_missing_imports = true
[mypy-django_redis.*]
ignore_missing_imports = true
[mypy.plugins.django-stubs]
django_settings_module = "settings"
"""
PYRIGHT = {
    "typeCheckingMode": "standard",
    "reportUntypedFunctionDecorator": "error",
    "reportUntypedClassDecorator": "error",
    "extraPaths": [str(ROOT)],
}

pytestmark = pytest.mark.timeout(600)


def check(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with an app in which each snippet of the README is a module."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "settings.py").write_text(SETTINGS)
    (tmp_path / "mypy.ini").write_text(MYPY)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    for line, text in snippets():
        # The plugin knows the models of installed apps. No other name may be imported: what mypy remembers of an older
        # README, whose snippets stand on other lines, would be looked for.
        name = "models" if "models.Model" in text else f"line_{line}"
        (tmp_path / "shop" / f"{name}.py").write_text(GIVEN + text)
    return tmp_path


def test_mypy_finds_nothing_in_the_snippets(project: Path) -> None:
    need(importlib.util.find_spec("mypy_django_plugin"), "django-stubs")
    check(["mypy", "--cache-dir", str(ROOT / ".mypy_cache" / "readme"), "shop"], project)


def test_mypy_finds_what_is_expected() -> None:
    need(importlib.util.find_spec("mypy_django_plugin"), "django-stubs")
    check(["mypy", str(EXPECTATIONS)], ROOT)


def test_pyright_finds_nothing_in_the_snippets(project: Path) -> None:
    need(importlib.util.find_spec("pyright"), "pyright")
    check(["pyright", "--pythonpath", sys.executable], project)


def test_pyright_finds_what_is_expected() -> None:
    need(importlib.util.find_spec("pyright"), "pyright")
    check(["pyright", "--pythonpath", sys.executable], ROOT)
