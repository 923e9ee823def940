"""What a visitor of the repository reads is true: paths, targets, and the files that a forge reads."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

import pytest

from tests.conftest import need
from tests.support.candidates import ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
MATRIX = ["3.10", "3.11", "3.12", "3.13", "3.14"]
PATH = re.compile(r"[\w.]+(?:/[\w.]*)+|\w+\.(?:md|toml|py)|Makefile")


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


def read(path: str) -> Any:
    need(find_spec("yaml"), "PyYAML")
    import yaml

    return yaml.safe_load((ROOT / path).read_text())


def test_a_report_of_a_bug_asks_for_what_is_needed() -> None:
    form = read(".github/ISSUE_TEMPLATE/bug.yml")
    assert {"name", "description"} <= set(form)
    asked = {part["id"]: part for part in form["body"] if part["type"] != "markdown"}
    assert list(asked) == ["what", "versions", "settings", "status", "log"]
    assert all(part["validations"] == {"required": True} for part in asked.values())
    assert "passwords" in asked["settings"]["attributes"]["description"]
    assert "leader_status --json" in asked["status"]["attributes"]["label"]


def test_a_vulnerability_is_not_reported_as_a_bug() -> None:
    [private, _] = read(".github/ISSUE_TEMPLATE/config.yml")["contact_links"]
    assert private["url"].endswith("/security/advisories/new")


def test_the_workflow_runs_every_version_and_all_that_must_pass() -> None:
    jobs = read(".github/workflows/ci.yml")["jobs"]
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


def test_the_badge_is_that_of_the_workflow() -> None:
    """It shows what the workflow has found, so it cannot be untrue."""
    [badge] = re.findall(r"actions/workflows/([\w.]+)/badge\.svg", (ROOT / "README.md").read_text())
    assert "main" in read(f".github/workflows/{badge}")[True]["push"]["branches"], 'YAML reads the key "on" as True'


def test_the_site_of_the_manual_is_built_as_by_make_docs() -> None:
    site = read(".readthedocs.yaml")
    assert (ROOT / site["sphinx"]["configuration"]).is_file()
    assert site["sphinx"]["fail_on_warning"] is True
    assert site["build"]["jobs"]["install"][-1] == "pip install . --group docs"
    assert re.search(r"^docs = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert site["build"]["tools"]["python"] in MATRIX


def test_the_manual_names_the_versions_that_are_required() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    [needed] = re.findall(r"^dependencies = \[(.*)\]$", project, re.MULTILINE)
    [python] = re.findall(r'^requires-python = ">=([\d.]+)"$', project, re.MULTILINE)
    versions = {"Python": python, **dict(re.findall(r'"([\w-]+)>=([\d.]+)"', needed))}
    versions["redis-py"] = versions.pop("redis")
    text = (ROOT / "docs/index.md").read_text()
    assert len(versions) == 4
    for name, version in versions.items():
        assert f"{name} {version} or newer" in text
