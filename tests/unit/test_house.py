"""What the code promises about itself: importable paths, and modules, functions and names of a readable size."""

from __future__ import annotations

import ast
import importlib
import io
import re
import tokenize
from pathlib import Path

import pytest

import django_leader
from tests.support.candidates import ROOT

PROMISED = (
    "apps", "models", "admin", "checks", "signals", "exceptions", "testing", "asgi", "decorators", "handler", "conf",
    "fencing",
)  # fmt: skip
"""Modules that projects import from. The others may move."""
MODULE, FUNCTION = 250, 40
"""Lines of code, at most. Comments, docstrings and blank lines do not count."""
WORDS = 12
"""Words in the name of a test, at most. The rest is its docstring. The numbers of rules do not count."""
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@pytest.mark.parametrize("name", PROMISED)
def test_a_promised_path_stays_importable(name: str) -> None:
    assert importlib.import_module(f"django_leader.{name}")


def test_every_public_name_is_there() -> None:
    assert all(hasattr(django_leader, name) for name in django_leader.__all__)


def texts(tree: ast.Module) -> set[int]:
    """The lines of docstrings, also of those behind attributes."""
    alone = (node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    return {line for node in alone for line in range(node.lineno, (node.end_lineno or 0) + 1)}


def lines_of_code(source: str) -> set[int]:
    """The numbers of the lines that have code."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = (range(token.start[0], token.end[0] + 1) for token in tokens if token.type not in NO_CODE)
    return {line for lines in code for line in lines} - texts(ast.parse(source))


MODULES = sorted((ROOT / "django_leader").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_short_enough_to_read(path: Path) -> None:
    source = path.read_text()
    code = lines_of_code(source)
    assert len(code) <= MODULE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own = code & set(range(node.lineno, (node.end_lineno or 0) + 1))
            assert len(own) <= FUNCTION, node.name


def test_what_counts_as_code() -> None:
    source = (
        '"""Text."""\n\n# Comment\nx = 1\n"""Of x,\nin two lines."""\n\ndef f() -> str:\n    return """a\n    b"""\n'
    )
    assert lines_of_code(source) == {4, 8, 9, 10}


TESTS = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if "simulation" not in path.parts)


def long_names(source: str) -> list[str]:
    """The names of tests that have too many words."""
    functions = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    names = (re.fullmatch(r"test_(?:[sj]\d\d_)*(\w+)", function.name) for function in functions)
    return [name.string for name in names if name and len(name[1].split("_")) > WORDS]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_name_of_a_test_is_a_short_sentence(path: Path) -> None:
    assert long_names(path.read_text()) == []


def test_which_names_are_too_long() -> None:
    words = "_".join("abcdefghijkl")
    fine, long = f"test_s08_s19_{words}", f"test_s08_{words}_m"
    assert long_names(f"def {fine}(): ...\nclass Test:\n    async def {long}(self): ...\n") == [long]
