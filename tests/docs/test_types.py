"""A project that is checked strictly has no complaint of ours: mypy and pyright read what a reader would write.

That they find what ``expectations.py`` expects is checked by ``make lint``.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import need
from tests.docs.pages import GIVEN, Block, blocks
from tests.support.candidates import ROOT

MYPY = """
[mypy]
strict = true
plugins = mypy_django_plugin.main
[mypy-apscheduler.*]
ignore_missing_imports = true
[mypy-django_redis.*,huey.*,celery.*,dramatiq.*,dramatiq_crontab.*,rq.*]
ignore_missing_imports = true
[mypy-howto_huey_my_app.*,howto_schedulers_my_app.*]
disallow_untyped_decorators = false
[mypy.plugins.django-stubs]
django_settings_module = "settings"
"""
PYRIGHT = {
    "typeCheckingMode": "standard",
    "reportUntypedFunctionDecorator": "error",
    "reportUntypedClassDecorator": "error",
    "extraPaths": [str(ROOT)],
    "ignore": ["howto_schedulers_my_app"],  # packages without types, which not every environment has
}

pytestmark = pytest.mark.timeout(600)


def check(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def is_setting(found: Block) -> bool:
    """Whether the block assigns settings, or imports from an app that the page has made in other blocks."""
    setting = re.search(r"^[A-Z_]+ \+?= [{\[]|^    +from \. import", found.text, re.MULTILINE)
    return setting is not None and not found.path.startswith("my_app")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in which each snippet is a module. The files of a page have an app and a site of their own."""
    (tmp_path / "mypy.ini").write_text(MYPY)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    for found in blocks():
        if is_setting(found):
            continue
        page = re.sub(r"\W", "_", found.page)
        path, text = f"{page}_app/line_{found.line}.py", GIVEN + found.text
        if found.path.startswith(("my_app/", "mysite/")):
            path = re.sub(r"^(my_app|mysite)", f"{page}_\\1", found.path)
            text = re.sub(r"\b(my_app|mysite)(?=\.\w+ import|\"$)", f"{page}_\\1", found.text, flags=re.MULTILINE)
        for folder in [*reversed(Path(path).parents)][1:]:
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / "__init__.py").touch()
        (tmp_path / path).write_text(text)
    apps = [path.name for path in tmp_path.glob("*_app")]
    (tmp_path / "settings.py").write_text(f"SECRET_KEY = 'x'\nINSTALLED_APPS: list[str] = {apps}\nUSE_TZ = True\n")
    return tmp_path


def test_mypy_finds_nothing_in_the_snippets(project: Path) -> None:
    need(importlib.util.find_spec("mypy_django_plugin"), "django-stubs")
    check(["mypy", "--cache-dir", str(ROOT / ".mypy_cache" / "docs"), "."], project)


def test_pyright_finds_nothing_in_the_snippets(project: Path) -> None:
    need(importlib.util.find_spec("pyright"), "pyright")
    check(["pyright", "--pythonpath", sys.executable], project)
