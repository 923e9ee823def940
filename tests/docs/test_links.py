"""Links within the README and the manual lead somewhere, and the README is short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import BLOCK, DOCS, PAGES, name_of
from tests.support.candidates import ROOT

SITE = "https://django-leader.readthedocs.io/en/latest/"
REPOSITORY = "https://github.com/django-leader/django-leader/blob/main/"
PICTURES = "https://raw.githubusercontent.com/django-leader/django-leader/main/"


def links(path: Path) -> list[str]:
    """The targets, with those of pictures."""
    text = re.sub(r"`[^`]+`", "", BLOCK.sub("", path.read_text(encoding="utf-8")))
    return re.findall(r"\]\(([^()\s]+)\)", text)


def anchors(path: Path) -> set[str]:
    """What a link may name behind ``#``, as the manual and GitHub make it of a heading."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    named = re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE)
    return {*named, *(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_each_link_leads_to_a_page_and_a_heading(path: Path) -> None:
    for link in links(path):
        target, _, anchor = link.partition("#")
        if target.startswith(SITE):
            found = (DOCS / target.removeprefix(SITE)).with_suffix(".md")
        elif target.startswith((REPOSITORY, PICTURES)):
            found = ROOT / target.removeprefix(REPOSITORY).removeprefix(PICTURES)
        elif "://" in target:
            continue
        else:
            found = (path.parent / target) if target else path
        assert found.is_file(), link
        assert not anchor or anchor in anchors(found), link


def test_all_links_of_the_readme_are_absolute() -> None:
    """It is shown on other sites, too."""
    assert [link for link in links(ROOT / "README.md") if "://" not in link] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 6000
