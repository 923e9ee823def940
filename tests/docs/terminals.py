"""A project on disk, the terminals in which a page's commands run, and the lines that the page says they show."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from django.core.management import call_command

from testproject.embedded import die_with_parent
from tests.docs.pages import ELECTION, Block, blocks
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, eventually, free_port

SETTINGS = "mysite/settings.py"
PORTS = ("8001", "8002")
"""Those on which the pages serve. Another program may listen there."""
BASE = """
INSTALLED_APPS += ["django_leader", "my_app"]
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "leader": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:6379/1"},
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django_leader": {"handlers": ["console"], "level": "INFO"}},
}
"""
"""What a how-to page takes for granted. Nothing is lost with this server, so nothing waits for a quarantine."""


def commands(block: Block) -> dict[str, list[str]]:
    """Return the commands of a console, each with the lines that it prints there."""
    parts = re.split(r"^\$ (.*)\n", block.text, flags=re.MULTILINE)
    return {command: said.splitlines() for command, said in zip(parts[1::2], parts[2::2], strict=True)}


class Lines:
    """Which lines stand for the printed ones: the same words with other times, names, tokens and process ids.

    A name that the page prints twice stands for one name here, and another name for another one.
    """

    SHAPES = {  # noqa: RUF012
        "instant": (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?", ""),
        "token": (r"\b\d{16}\b", r"\d{16}"),
        "pid": (r"(?<=pid=)\d+|^\d{4}$", r"\d+"),
        "instance": (r"\blaptop-[0-9a-f]{8}", r"[\w.-]+-[0-9a-f]{8}"),
        "host": (r"\blaptop\b", r"[\w.-]+"),
        "quarantine": (r"\b10\.0 s(?= \(QUARANTINE\))", r"(?:10\.0|9\.\d) s"),
        "left": (r"\b\d\.\d{3} s$", r"\d+(?:\.\d+)? s"),
        "more": ("…", ".*"),
    }
    VARIES = re.compile("|".join(f"(?P<{name}>{printed})" for name, (printed, _) in SHAPES.items()))
    NAMES = ("token", "pid", "instance", "host")

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        """What stands here for a printed name."""

    def match(self, printed: str, said: str) -> bool:
        """Return whether ``said`` stands for ``printed``, and learn its names if it does."""
        groups: dict[str, str] = {}
        pattern, end = "", 0
        for found in self.VARIES.finditer(printed):
            pattern += re.escape(printed[end : found.start()]) + self._pattern(found, groups)
            end = found.end()
        match = re.fullmatch(pattern + re.escape(printed[end:]), said)
        learned = {name: match[group] for name, group in groups.items()} if match else {}
        if match is None or not set(learned.values()).isdisjoint(self.known.values()):
            return False
        self.known |= learned
        return True

    def _pattern(self, found: re.Match[str], groups: dict[str, str]) -> str:
        name = str(found.lastgroup)
        if name == "instant":  # with as many digits, but Python prints no fraction of 0
            digits = re.sub(r"\d", r"\\d", re.escape(found[0]))
            return re.sub(r"\\\.(.*)$", r"(?:\\.\1)?", digits)
        if name not in self.NAMES:
            return self.SHAPES[name][1]
        if found[0] in self.known:
            return re.escape(self.known[found[0]])
        if found[0] in groups:
            return f"(?P={groups[found[0]]})"
        groups[found[0]] = f"name{len(groups)}"
        return f"(?P<{groups[found[0]]}>{self.SHAPES[name][1]})"


class Terminal:
    """One in which a command runs."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, lines: Lines) -> None:
        self.process, self._log, self._lines = process, log, lines
        self._seen = 0

    @property
    def said(self) -> list[str]:
        """All whole lines until now."""
        return self._log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()

    def shows(self, printed: str) -> str:
        """Wait for a line that stands for the ``printed`` one, behind the last one waited for. Return it."""

        def find() -> str:
            for number, line in enumerate(self.said[self._seen :], self._seen):
                if self._lines.match(printed, line):
                    self._seen = number + 1
                    return line
            return ""

        return self._wait(find, printed)

    def has(self, text: str) -> bool:
        """Return whether a line until now has ``text``."""
        return any(text in line for line in self.said)

    def waits_for(self, text: str) -> None:
        """Wait until it has."""
        self._wait(lambda: self.has(text) and text, text)

    def _wait(self, find: Callable[[], str | bool], what: str) -> str:
        try:
            return str(eventually(find, what, every=0.05))
        except AssertionError:
            raise AssertionError("\n".join(["not shown:", what, "but:", *self.said])) from None

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal, Ctrl-C if nothing else is said, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(GENEROUS)


class Project:
    """A folder with a project of Django. The server at ``port`` takes the place of the one at 127.0.0.1:6379."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self._port = folder / "project", port
        self.lines = Lines()
        self._terminals: list[Terminal] = []
        self._ports = {port: str(free_port()) for port in PORTS}
        self.folder.mkdir()
        programs = folder / "bin"
        programs.mkdir()
        for name, call in (("python", ""), ("django-admin", "-m django"), ("celery", "-m celery")):
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {call} "$@"\n')
            (programs / name).chmod(0o755)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO"))}
        paths = [str(ROOT), *clean.get("PYTHONPATH", "").split(os.pathsep)]
        self.environment = {
            **clean,
            "PATH": f"{programs}{os.pathsep}{clean['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
        }

    def begin(self, page: str) -> None:
        """Make a project with an app, as the how-to pages take for granted, and write the files of ``page``."""
        call_command("startproject", "mysite", str(self.folder))
        self.add(BASE + ELECTION)
        for package in ("my_app", "my_app/management", "my_app/management/commands"):
            self.write(f"{package}/__init__.py", "")
        for block in blocks(page, ""):
            if block.path == SETTINGS:
                self.add(block.text)
            elif block.path:
                self.write(block.path, block.text)

    def write(self, path: str, text: str) -> None:
        """Write a file of the project."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("127.0.0.1:6379", f"127.0.0.1:{self._port}"), encoding="utf-8")

    def add(self, text: str) -> None:
        """Add to the end of the settings."""
        self.write(SETTINGS, f"{(self.folder / SETTINGS).read_text(encoding='utf-8')}\n{text}")

    def run(self, script: str, *, status: int = 0) -> str:
        """Have ``sh`` run a script, which must end with ``status``. Return what it says on stdout."""
        done = subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * GENEROUS,
        )
        assert done.returncode == status, (script, done)
        return done.stdout

    def start(self, command: str, *, folder: Path | None = None, stderr: int = subprocess.STDOUT) -> Terminal:
        """Run a command in a terminal of its own. ``stderr``: a descriptor for what it writes there."""
        log = self.folder.parent / f"terminal-{len(self._terminals)}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [self._ports.get(word, word) for word in shlex.split(command)],
                cwd=folder or self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._terminals.append(Terminal(process, log, self.lines))
        return self._terminals[-1]

    def close(self) -> None:
        """End what runs, with the children that it may have."""
        for terminal in self._terminals:
            if terminal.process.poll() is None:  # not waited for, so the group is still its own
                os.killpg(terminal.process.pid, signal.SIGKILL)
                terminal.process.wait(GENEROUS)


@contextlib.contextmanager
def project(folder: Path, port: int) -> Iterator[Project]:
    """A project, whose processes end with the block."""
    made = Project(folder, port)
    try:
        yield made
    finally:
        made.close()
