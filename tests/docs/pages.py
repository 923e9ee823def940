"""The Python snippets of the README, as printed."""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple

from tests.support.candidates import ROOT

GIVEN = """
import logging
from django.core.management import call_command
from django.db import models
from django.test import TestCase
from django_leader import elections, is_leader
from django_leader.testing import following, leading, real_elections

logger = logging.getLogger(__name__)


def make_report() -> str:
    return "text"


def send_newsletters() -> None: ...


"""
"""What snippets take for granted: imports, and functions of the reader's project."""


class Snippet(NamedTuple):
    """One block of code, and the number of its first line in the README."""

    line: int
    text: str


def snippets() -> list[Snippet]:
    """All of them, in their order."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.finditer(r"^( *)```python\n(.*?)^\1```$", readme, re.DOTALL | re.MULTILINE)
    return [Snippet(readme[: match.start(2)].count("\n") + 1, textwrap.dedent(match[2])) for match in found]


def snippet(part: str) -> str:
    """The text of the only one that contains ``part``."""
    [text] = [text for _, text in snippets() if part in text]
    return text
