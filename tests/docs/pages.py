"""The blocks of code in the README and in the manual, as printed."""

from __future__ import annotations

import re
import textwrap
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.support.candidates import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
GIVEN = """
from django.core.management import call_command
from django_leader import elections, is_leader


def send_newsletters() -> None: ...


"""
"""What the blocks without a path take for granted: imports, and a function of the reader's project."""
ELECTION = """
LEADER_ELECTIONS = {
    "default": {
        "CACHE": "leader",
        "REDIS_KEY_NAME": "mysite:leader:lock",
        "REDIS_INFO_KEY_NAME": "mysite:leader:info",
        "QUARANTINE": 0,
    },
}
"""
"""The setting of a project that has been set up by the README, but for the quarantine: tests do not wait for it."""


class Block(NamedTuple):
    """A block of code, and where it stands."""

    page: str
    line: int
    language: str
    text: str

    @property
    def path(self) -> str:
        """The file that the first line names, such as ``my_app/apps.py``; or nothing."""
        found = re.match(r"# ([\w/]+\.py)$", self.text.partition("\n")[0])
        return found[1] if found else ""


@cache
def blocks(page: str = "", language: str = "python") -> list[Block]:
    """All of a page or of all pages, in this language or in any (""), in their order."""
    return [
        Block(name_of(path), text[: match.start(3)].count("\n") + 1, match[2], textwrap.dedent(match[3]))
        for path in PAGES
        if page in ("", name_of(path))
        for text in [path.read_text(encoding="utf-8")]
        for match in BLOCK.finditer(text)
        if language in ("", match[2])
    ]


def block(page: str, part: str, language: str = "python") -> str:
    """The text of the only one on the page that contains ``part``."""
    [text] = [found.text for found in blocks(page, language) if part in found.text]
    return text


def name_of(path: Path) -> str:
    """The name of a page: ``README``, or its path in the manual without ``.md``."""
    return path.stem if path.parent == ROOT else path.relative_to(DOCS).with_suffix("").as_posix()


@cache
def page(name: str) -> str:
    """The text of a page of the manual."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def sections(text: str, level: int) -> dict[str, str]:
    """The sections below headings of this level, from 2 on: heading and text, with what is nested in it."""
    parts = re.split(rf"^(#{{2,{level}}}) (.+)\n", text, flags=re.MULTILINE)[1:]
    return {
        name.replace("`", ""): body for mark, name, body in zip(*[iter(parts)] * 3, strict=True) if len(mark) == level
    }


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without those of headings: the cells of each."""
    tables = re.findall(r"^\|.*\|\n\|[-|]+\|\n((?:\|.*\|\n)*)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for table in tables for row in table.splitlines()]


def spans(text: str) -> list[str]:
    """What is code within the sentences of a text."""
    return re.findall(r"`([^`]+)`", " ".join(BLOCK.sub("", text).split()))


def shown(text: str) -> list[str]:
    """The blocks of plain text: log lines, messages and the like, as they are shown."""
    return [match[3].strip() for match in BLOCK.finditer(text) if match[2] == "text"]
