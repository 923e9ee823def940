"""The tutorial, followed step by step with real processes: each command as printed, and each line that it prints."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from django_leader.system.pidfd import unsupported
from tests.conftest import need
from tests.docs.pages import Block, blocks
from tests.docs.terminals import SETTINGS, Lines, Project, Terminal, commands, project
from tests.support.candidates import ROOT
from tests.support.servers import GENEROUS, RedisServer

PAGE = "tutorial"
OF_READER = (
    "mkdir leader-tutorial",
    "cd leader-tutorial",
    "python3 -m venv venv",
    ". venv/bin/activate",
    "pip install django-leader",
)
"""Commands that give the reader what the test has."""


class Reader:
    """Follows the page from block to block, and leaves none out."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._blocks = iter(blocks(PAGE, ""))

    def block(self, language: str) -> Block:
        """Return the next one."""
        found = next(self._blocks)
        assert found.language == language, f"line {found.line}"
        return found

    def over(self) -> bool:
        """Return whether the page has no more."""
        return next(self._blocks, None) is None

    def commands(self) -> dict[str, list[str]]:
        """Return those of the next console, which the reader gives in the folder of the project."""
        return {command: said for command, said in commands(self.block("console")).items() if command not in OF_READER}

    def serve(self) -> tuple[Terminal, list[str]]:
        """Start the process of the next console. Return the lines that the page prints."""
        [(command, said)] = self.commands().items()
        assert re.fullmatch(r"python manage.py runserver --noreload 800[12]", command)
        return self.project.start(command), said

    def text(self) -> list[str]:
        """Return the printed lines of the next block."""
        return self.block("text").text.splitlines()

    def file(self) -> tuple[str, str]:
        """Return the path and the text of the next file. The sentence before it names its path."""
        block = self.block("python")
        page = (ROOT / "docs" / f"{PAGE}.md").read_text(encoding="utf-8").splitlines()
        return re.findall(r"`([\w/]+\.py)`", "\n".join(page[: block.line]))[-1], block.text

    def name(self, printed: str) -> str:
        """Return what stands here for a printed name."""
        return self.project.lines.known[printed]


@pytest.fixture
def reader(tmp_path: Path, own_server: RedisServer) -> Iterator[Reader]:
    with project(tmp_path, own_server.port) as made:
        yield Reader(made)


@pytest.mark.timeout(300)
def test_each_step_of_the_tutorial_goes_as_printed(reader: Reader, own_server: RedisServer) -> None:
    need(not unsupported(), "a kernel that reports the death of a process")
    make_and_configure(reader)
    first, said = reader.serve()
    for line in said:
        if "LEADER_ELECTIONS" in line or "System check" in line:  # Django's other lines may differ
            first.shows(line)
    [leads] = reader.text()
    first.shows(leads)
    second, _ = reader.serve()
    for line in reader.text():
        second.shows(line)
    who_leads(reader)
    stop_the_leader(reader, first, second)
    first = kill_the_leader(reader, second)
    assert first.end() in (0, -signal.SIGINT)  # Django catches Ctrl-C only while it serves
    run_a_job(reader)
    clean_up(reader, own_server)
    assert reader.over()


def make_and_configure(reader: Reader) -> None:
    """Steps 1 to 3."""
    assert all(command.startswith("docker ") for command in reader.commands())
    assert "sudo apt install redis-server" in reader.commands()
    [start] = reader.commands()
    reader.project.run(start)
    path, text = reader.file()
    assert path == SETTINGS
    reader.project.add(text)
    for command, said in reader.commands().items():
        shown = reader.project.run(command)
        assert said in ([], shown.splitlines())


def who_leads(reader: Reader) -> None:
    """The end of step 5: the table has the printed columns, and each cell stands for the printed one."""
    [(command, printed)] = reader.commands().items()
    shown = reader.project.run(command).splitlines()
    assert [re.split("  +", line) for line in shown[:1]] == [re.split("  +", line) for line in printed[:1]]
    [cells, said] = [re.split("  +", line) for line in (printed[1], shown[1])]
    assert (len(printed), len(shown), len(cells)) == (2, 2, len(said))
    for one, other in zip(cells, said, strict=True):
        assert reader.project.lines.match(one, other), (one, other)


def stop_the_leader(reader: Reader, first: Terminal, second: Terminal) -> None:
    """Step 6: Ctrl-C, and the follower leads before a lease could have expired."""
    printed = reader.text()
    first.process.send_signal(signal.SIGINT)
    lost = [first.shows(line.removeprefix("^C")) for line in printed][-1]
    [gained] = reader.text()
    gained = second.shows(gained)
    assert first.process.wait(GENEROUS) == 0
    at, since = (
        datetime.fromisoformat(re.findall(rf"{word} (\S+ \S+) UTC\)", line)[0])
        for word, line in (("at", lost), ("since", gained))
    )
    assert 0 <= (since - at).total_seconds() < 5
    before, after = (int(re.findall(r"token (\d{16})", line)[0]) for line in (lost, gained))
    assert after > before


def kill_the_leader(reader: Reader, leader: Terminal) -> Terminal:
    """Step 7. Return the terminal in which the next leader runs."""
    follower, _ = reader.serve()
    [follows] = reader.text()
    follower.shows(follows)
    [kill] = reader.commands()
    pid = kill.removeprefix("kill -9 ")
    assert reader.name(pid) == str(leader.process.pid)
    reader.project.run(kill.replace(pid, reader.name(pid)))
    assert leader.process.wait(GENEROUS) == -signal.SIGKILL
    [leads] = reader.text()
    follower.shows(leads)
    shown = reader.project.run(reader.block("sh").text).splitlines()
    for printed, said in zip(reader.text(), shown, strict=True):
        assert reader.project.lines.match(printed, said.rstrip()), (printed, said)
    return follower


def run_a_job(reader: Reader) -> None:
    """Step 8: the leader works, and after Ctrl-C the other one. Each line but the last of a block is waited for."""
    [start] = reader.commands()
    reader.project.run(start)
    for path in ("newsletter/jobs.py", "newsletter/apps.py"):
        named, text = reader.file()
        assert named == path
        reader.project.write(path, text)
    path, text = reader.file()
    settings = (reader.project.folder / path).read_text(encoding="utf-8")
    assert (path, settings.count('\nINSTALLED_APPS += ["django_leader"]\n')) == (SETTINGS, 1)
    reader.project.write(path, settings.replace('INSTALLED_APPS += ["django_leader"]\n', text))
    first, _ = reader.serve()
    first.waits_for(": leader, with token")
    assert not first.has("QUARANTINE"), "it leads at once"
    second, _ = reader.serve()
    second.waits_for(" leads")
    works(reader, first, reader.text())
    assert not second.has("sending")
    assert first.end() in (0, -signal.SIGINT)  # Django catches Ctrl-C only while it serves
    leads, *sends = reader.text()
    second.shows(leads)
    works(reader, second, sends)
    assert second.end() in (0, -signal.SIGINT)  # Django catches Ctrl-C only while it serves


def works(reader: Reader, terminal: Terminal, printed: list[str]) -> None:
    """The job runs in ``terminal``. Its last line is like the others, so it need not be waited for."""
    said = [terminal.shows(line) for line in printed[:-1]]
    assert reader.project.lines.match(printed[-1], said[-1])
    instants = [datetime.fromisoformat(line[:23].replace(",", ".")) for line in said]
    assert all((after - before).total_seconds() > 4.9 for before, after in pairwise(instants))


def clean_up(reader: Reader, server: RedisServer) -> None:
    """Step 9: what is left for ever in database 1 are the two keys that the page deletes."""
    assert list(reader.commands()) == ["docker stop tutorial-redis"]
    [(command, said)] = reader.commands().items()
    program, option, database, delete, *keys = shlex.split(command)
    assert (program, option, database, delete) == ("redis-cli", "-n", "1", "del")
    with server.client() as client:
        client.execute_command("SELECT", database)
        left = {key.decode() for key in client.scan_iter() if client.ttl(key) == -1}
        assert left == set(keys)
        assert [f"(integer) {client.delete(*keys)}"] == said


LINE = "2026-11-28 09:57:40,016 pid=3551 INFO LEADER_ELECTIONS['default']: laptop-ee0eb3c0 leads"


@pytest.mark.parametrize(
    ("said", "stands"),
    [
        ("2031-01-02 23:59:59,999 pid=7 INFO LEADER_ELECTIONS['default']: my-host.x-0123abcd leads", True),
        ("2031-01-02 23:59:59,999 pid=7 INFO LEADER_ELECTIONS['default']: my-host.x-99999999 leads", False),
        ("2031-01-02 23:59:59,999 pid=7 WARNING LEADER_ELECTIONS['default']: my-host.x-0123abcd leads", False),
        ("2031-01-02 23:59:59,999 pid=7 INFO LEADER_ELECTIONS['default']: my-host.x-0123abcd leads, after x", False),
        ("2031-01-02 23:59:59,999 pid=8 INFO LEADER_ELECTIONS['default']: my-host.x-0123abcd leads", False),
        ("2031-01-02 23:59:59 pid=7 INFO LEADER_ELECTIONS['default']: my-host.x-0123abcd leads", False),
    ],
)
def test_only_times_and_names_may_differ_and_names_stay(said: str, stands: bool) -> None:
    lines = Lines()
    assert lines.match(
        "pid=3551 of laptop-ee0eb3c0, not laptop-00000000", "pid=7 of my-host.x-0123abcd, not z-99999999"
    )
    assert lines.match(LINE, said) is stands
