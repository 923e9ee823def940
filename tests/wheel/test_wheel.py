"""What is released, as its users get it: complete, and at work in an environment that has nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import need
from tests.docs.pages import block
from tests.support.candidates import ROOT
from tests.support.servers import RedisServer

pytestmark = pytest.mark.timeout(600)

PROJECT = """
import os, sys
from django.conf import settings
first = {}
exec(os.environ["SETTINGS"], first)
settings.configure(
    SECRET_KEY="x",
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.messages",
                    "django.contrib.sessions", "django.contrib.admin", first["INSTALLED_APPS"][0]],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CACHES=first["CACHES"],
    LEADER_ELECTIONS=first["LEADER_ELECTIONS"],
    USE_TZ=True,
)
import django, django_leader
django.setup()
assert os.environ["FROM"] in django_leader.__file__, django_leader.__file__
from django.core.management import call_command
call_command("migrate", verbosity=0)
election = django_leader.elections["default"]
election.start()
assert election.wait_for_leadership(40)
assert django_leader.is_leader()
call_command("leader_status")
"""
REST = """
election.stop()
from io import StringIO
from django.core.management.base import BaseCommand

class Command(BaseCommand):
    @django_leader.leader_required(election="default")
    def handle(self, *args, **options):
        return "guarded"

assert call_command(Command(), stdout=StringIO()) == "guarded"
call_command("makemigrations", check_changes=True, verbosity=0)
from django_leader.protocol import scripts
assert sorted(scripts.SOURCES) == sorted(os.environ["SCRIPTS"].split())
"""


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def wheel(released: Path) -> Path:
    [found] = released.glob("*.whl")
    return found


def test_the_source_distribution_has_every_file_of_the_repository(released: Path) -> None:
    """So that its tests and its Makefile work, too."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    listing = ["git", "-c", "safe.directory=*", "ls-files"]
    tracked = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert len(tracked) > 300
    [path] = released.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert set(tracked) - packed == set()


def test_an_index_of_packages_can_show_what_is_released(released: Path) -> None:
    need(find_spec("twine"), "twine")
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, released.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA"))
    package = ROOT / "django_leader"
    files = {
        str(path.relative_to(ROOT)) for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == files
    for needed in (
        "protocol/lua/campaign.lua",
        "templates/admin/django_leader/elections.html",
        "locale/de/LC_MESSAGES/django.mo",
        "py.typed",
    ):
        assert f"django_leader/{needed}" in packed
    assert "static/django_leader/elections.css" in " ".join(packed)
    required = [
        line.split(": ")[1].split(">")[0].lower()
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist") and "extra ==" not in line
    ]
    assert sorted(required) == ["django", "django-redis", "redis"]


def first_settings(server: RedisServer) -> str:
    """The settings that the README begins with, with ``server`` in the place of the reader's."""
    text = block("README", "# settings.py")
    assert text.count("127.0.0.1:6379") == 2
    return text.replace("127.0.0.1:6379", f"127.0.0.1:{server.port}")


def test_the_wheel_works_in_a_clean_environment(wheel: Path, tmp_path: Path, some_server: RedisServer) -> None:
    venv.create(tmp_path / "env")
    python = str(tmp_path / "env" / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-compile", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = run(python, PROJECT, tmp_path, SETTINGS=first_settings(some_server), FROM="site-packages")
    assert "default" in out


def test_the_wheel_works_without_being_unpacked(wheel: Path, tmp_path: Path, some_server: RedisServer) -> None:
    """As in a zipapp, with the packages of this environment."""
    lua = [path.stem for path in (ROOT / "django_leader" / "protocol" / "lua").iterdir()]
    more = {"PYTHONPATH": str(wheel), "SCRIPTS": " ".join(lua), "FROM": f"{wheel.name}/django_leader"}
    out = run(sys.executable, PROJECT + REST, tmp_path, SETTINGS=first_settings(some_server), **more)
    assert "default" in out


def run(python: str, program: str, folder: Path, **more: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON", "DJANGO"))}
    done = subprocess.run(
        [python, "-W", "error", "-c", program],
        cwd=folder,
        env={**clean, **more},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
