"""Runs tests within a test: those of an invented project, in a process of their own, and counts what ran."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from tests.support.candidates import ROOT

SETTINGS = """
SECRET_KEY = "inner"
INSTALLED_APPS = ["django_leader", "app"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}}
"""
MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "project_settings"
if __name__ == "__main__":  # Python 3.14's fork server imports it
    execute_from_command_line(sys.argv)
"""
COMMAND = """
from django.core.management.base import BaseCommand
from django_leader import leader_required

class Command(BaseCommand):
    @leader_required
    def handle(self, *args, **options):
        return "ran"
"""


class Project:
    """A small Django project in a folder, with the guarded command ``nightly``; its Redis can never be reached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        commands = folder / "app" / "management" / "commands"
        commands.mkdir(parents=True)
        for package in (commands, commands.parent, commands.parent.parent):
            (package / "__init__.py").touch()
        (folder / "manage.py").write_text(MANAGE)
        (folder / "project_settings.py").write_text(SETTINGS)
        (commands / "nightly.py").write_text(COMMAND)

    def write_tests(self, text: str) -> None:
        """Write the module of the project's tests."""
        (self.folder / "app" / "tests.py").write_text(dedent(text))

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python as if nothing of the outer test run were there."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO", "COV"))}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**clean, "PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}", **environment},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def pytest(self, text: str, *options: str) -> str:
        """Run tests under pytest and return the counts of its last line, like ``1 failed, 2 passed``."""
        self.write_tests(text)
        settings = ("--ds=project_settings", "-p", "no:cacheprovider", "-W", "error", "--rootdir=.")
        done = self.run("-m", "pytest", "-q", *settings, *options, "app/tests.py")
        last = done.stdout.strip().splitlines()[-1]
        counts = re.sub(r" in [0-9.]+s.*", "", last).strip("= ")
        return counts if "failed" not in counts and "error" not in counts else f"{counts}\n{done.stdout}"

    def manage_test(self, text: str, *options: str) -> str:
        """Run tests under Django's own runner and return how many ran, like ``2 OK``."""
        self.write_tests(text)
        done = self.run("manage.py", "test", *options)
        [count] = re.findall(r"^Ran (\d+) test", done.stderr, re.MULTILINE) or ["?"]
        return f"{count} OK" if done.returncode == 0 else f"{count} not OK\n{done.stdout}{done.stderr}"
