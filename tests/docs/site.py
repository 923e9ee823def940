"""A Django project in a folder, into which the files that a page prints are written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ELECTION, blocks
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer

MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
execute_from_command_line(sys.argv)
"""
SETTINGS = """
SECRET_KEY, DEBUG, USE_TZ, ROOT_URLCONF = "tests", True, True, "mysite.urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.sessions", "django_leader", "my_app"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
CACHES = {
    "default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:6379/0"},
    "leader": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:6379/1"},
}
"""
"""As of a project that has been set up by the README."""


class Site:
    """The project. ``server`` takes the place of the one at 127.0.0.1:6379."""

    def __init__(self, folder: Path, server: RedisServer, *pages: str) -> None:
        self.folder, self._port = folder, server.port
        for path, text in (
            ("manage.py", MANAGE),
            ("mysite/__init__.py", ""),
            ("mysite/settings.py", SETTINGS + ELECTION),
            ("mysite/urls.py", "urlpatterns = []\n"),
            ("my_app/__init__.py", ""),
            ("my_app/management/__init__.py", ""),
            ("my_app/management/commands/__init__.py", ""),
        ):
            self.write(path, text)
        for page in pages:
            for block in blocks(page):
                if block.path:
                    self.write(block.path, block.text)

    def write(self, path: str, text: str) -> None:
        """Write a file, or add to the settings."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.read_text() if path == "mysite/settings.py" and file.exists() else ""
        file.write_text(before + text.replace("127.0.0.1:6379", f"127.0.0.1:{self._port}"))

    @property
    def environment(self) -> dict[str, str]:
        """That of a process in production, and not of a test."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        return {**kept, "PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "mysite.settings", "PYTHONWARNINGS": "error"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A process of Python in the folder."""
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """What a process says on stdout and on stderr, which ends with ``status``."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=GENEROUS)
        finally:
            process.kill()
        assert process.returncode == status, (process.returncode, out, err)
        return out, err

    def manage(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """The same of a management command."""
        return self.run("manage.py", *arguments, status=status)

    def script(self, text: str) -> str:
        """What a script says on stdout, behind ``django.setup()``."""
        return self.run("-c", f"import django; django.setup()\n{text}")[0]
