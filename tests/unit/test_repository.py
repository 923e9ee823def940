"""What a visitor of the repository reads is true: paths, targets, and the files that a forge reads."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import pytest

from tests.support.candidates import ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
FORGE = sorted((ROOT / ".github").rglob("*.yml"))
MATRIX = ["3.10", "3.11", "3.12", "3.13", "3.14"]
PATH = re.compile(r"[\w.]+(?:/[\w.]*)+|\w+\.(?:md|toml|py)|Makefile")
KEY = re.compile(r"([\w-]+):(?: (.*))?")


def paths(text: str) -> list[str]:
    """The code spans that are paths."""
    return [span for span in re.findall(r"`([^`\n]+)`", text) if PATH.fullmatch(span)]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_every_path_that_is_named_exists(name: str) -> None:
    missing = [path for path in paths((ROOT / name).read_text()) if not (ROOT / path).exists()]
    assert missing == []


def test_which_spans_are_paths() -> None:
    assert paths("`a/b.py` `a/` `.ci/run` `c.toml` `Makefile` `make a` `Config.b` `x()`") == [
        "a/b.py", "a/", ".ci/run", "c.toml", "Makefile",
    ]  # fmt: skip


def test_the_example_of_a_setting_names_the_files_where_it_is() -> None:
    """Each module and test that it sends its reader to has the setting, or the name that it speaks of."""
    example = CONTRIBUTING.split("## How to add a setting")[1]
    named = [ROOT / path for path in paths(example) if path.endswith((".py", ".lua"))]
    assert len(named) >= 7
    for path in named:
        assert "quarantine" in path.read_text().lower(), path
    text = "".join(path.read_text() for path in named)
    names = [span for span in re.findall(r"`([^`\n]+)`", example) if re.fullmatch(r"[A-Za-z_]+", span)]
    assert len(names) >= 10
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_every_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([\w-]+)", CONTRIBUTING))
    assert len(named) >= 5
    assert named <= targets


def test_the_limits_are_those_that_are_checked() -> None:
    from tests.unit.test_house import FUNCTION, MODULE

    assert f"at most {MODULE} lines of code, and a function {FUNCTION}." in CONTRIBUTING


def test_the_changelog_has_a_section_for_each_kind_of_change() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = re.findall(r"^### (.+)$", text.split("## [Unreleased]")[1], re.MULTILINE)
    assert "Added" in sections
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


# The files that a forge reads


Lines = deque[tuple[int, str]]


def parse(text: str) -> Any:
    """A document of the part of YAML that these files keep to. Raise ``AssertionError`` for anything else."""
    assert "\t" not in text
    written = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    lines = deque((len(line) - len(line.lstrip()), line.strip()) for line in written)
    found = node(lines, 0)
    assert not lines, lines[0]
    return found


def node(lines: Lines, indent: int) -> Any:
    assert lines[0][0] == indent, lines[0]
    if lines[0][1].startswith("- "):
        items = []
        while lines and lines[0][0] == indent and lines[0][1].startswith("- "):
            lines[0] = (indent + 2, lines[0][1][2:])
            items.append(node(lines, indent + 2))
        return items
    if not KEY.fullmatch(lines[0][1]):
        return scalar(lines.popleft()[1])
    mapping: dict[str, Any] = {}
    while lines and lines[0][0] == indent:
        line = lines.popleft()[1]
        key = KEY.fullmatch(line)
        assert key, line
        assert key[1] not in mapping, line
        below = lines[0][0] if lines and lines[0][0] > indent else None
        if key[2] == "|":
            mapping[key[1]] = "\n".join(lines.popleft()[1] for _ in list(lines) if lines[0][0] > indent)
        elif key[2]:
            mapping[key[1]] = scalar(key[2])
        else:
            mapping[key[1]] = None if below is None else node(lines, below)
    return mapping


def scalar(text: str) -> Any:
    text = text.split("  #")[0].strip()
    if text.startswith("["):
        assert text.endswith("]"), text
        return [scalar(part.strip()) for part in text[1:-1].split(",")]
    if text.startswith('"'):
        assert text.endswith('"'), text
        return text[1:-1]
    assert not re.search(r"^[{}&*!|>'%@`]|: | #", text), text
    return {"true": True, "false": False}.get(text, int(text) if text.isdecimal() else text)


def test_what_is_no_document_is_refused() -> None:
    assert parse('a:\n  - b: 1\n    c: "x"\n  - [d, e]\nf: |\n  g: h\n  # i\nj: true  # k\n') == {
        "a": [{"b": 1, "c": "x"}, ["d", "e"]], "f": "g: h", "j": True,
    }  # fmt: skip
    for wrong in ("a: b: c", "a: 1\na: 2", "a:\n  b: 1\n c: 2", "a: [b", "a:\n\tb: 1", "a: b\n  - c", "`a`"):
        with pytest.raises(AssertionError):
            parse(wrong)


@pytest.mark.parametrize("path", FORGE, ids=lambda path: path.name)
def test_a_file_of_the_forge_is_a_document(path: Any) -> None:
    assert isinstance(parse(path.read_text()), dict)


def test_a_report_of_a_bug_asks_for_what_is_needed() -> None:
    form = parse((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    assert {"name", "description"} <= set(form)
    asked = {part["id"]: part for part in form["body"] if part["type"] != "markdown"}
    assert list(asked) == ["what", "versions", "settings", "status", "log"]
    assert all(part["validations"] == {"required": True} for part in asked.values())
    assert "passwords" in asked["settings"]["attributes"]["description"]
    assert "leader_status --json" in asked["status"]["attributes"]["label"]


def test_a_vulnerability_is_not_reported_as_a_bug() -> None:
    [private, _] = parse((ROOT / ".github/ISSUE_TEMPLATE/config.yml").read_text())["contact_links"]
    assert private["url"].endswith("/security/advisories/new")


def test_the_workflow_runs_every_version_and_all_that_must_pass() -> None:
    jobs = parse((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == MATRIX
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert classifiers == MATRIX
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert runs["test"][-1].startswith("make test ")
    assert runs["all"][-1].endswith(".ci/run")
    [versions] = [step["with"]["python-version"] for step in jobs["all"]["steps"] if "setup-python" in str(step)]
    script = (ROOT / ".ci/run").read_text()
    assert all(f'"{version} ' in script for version in versions.split() if version != "3.11"), "of its matrix"
    assert versions.split()[-1] == "3.11", "the last one is python3"
