"""What the package writes, read from its source: each text, with a mark in the place of each value.

Nothing is run. A text is what an expression can be as far as its literals, the constants of its module and the local
assignments before it say; anything else is a value. A page shows a value as a word in angle brackets.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from functools import cache, cached_property
from importlib import import_module
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from django_leader.runtime.term_log import TermLog
from tests.support.candidates import ROOT

PACKAGE = ROOT / "django_leader"
OPTIONAL = ("celery/database.py",)
"""Modules that need what cannot be installed everywhere."""
VALUE, GIVEN = "\0", "\1"
"""What stands in a text for a value, and for the text that a function is given to log."""
PLACE = r"'?<[^<>]+>'?"
"""How a page shows a value."""
CONVERSION = re.compile(r"%(?:\((\w+)\))?[-#0 +]*[\d.]*([a-z%])")
FIELD = re.compile(r"\{[^{}]*\}")
LOGGER = tuple(
    f"{logger}.{method}"
    for logger in ("logger", "logging")
    for method in ("debug", "info", "warning", "error", "critical", "exception", "log", "getLogger")
)
"""What nobody but ``system.log`` may call."""
FORWARDERS = {
    "log": ("system/log.py", "log", "message"),
    "self._warn": ("runtime/diagnostics.py", "_warn", "text"),
    "self._add": ("runtime/term_log.py", "_add", "text"),
    "call_logged": ("runtime/callbacks.py", "call_logged", "what"),
    "insist": ("system/starts.py", "insist", "what"),
    "gain.wait": ("runtime/work.py", "wait", "text"),
}
"""The functions that log what they are given: how each is called, where it is, and the parameter with the text."""
FORWARDED = set(FORWARDERS.values())
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source:
    """A module of the package: its tree, and what its names mean."""

    def __init__(self, name: str, text: str, module: ModuleType) -> None:
        self.name, self.tree, self.module = name, ast.parse(text), module

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """What each node stands in."""
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    @cached_property
    def called(self) -> dict[str, list[ast.Call]]:
        """The calls by the name that is called, as in the source; those by ``partial``, too, as such calls."""
        found = defaultdict[str, list[ast.Call]](list)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                call = _of_partial(node)
                if call is not node:
                    self.parents[call] = node
                found[ast.unparse(call.func)].append(call)
        return found

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """What the node stands in, the innermost first."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function(self, node: ast.AST) -> str:
        """The name of the function around the node; empty at the level of the module."""
        return next((outer.name for outer in self.around(node) if isinstance(outer, Function)), "")

    def calls(self, *names: str) -> Iterator[ast.Call]:
        """The calls of what is called so in the source."""
        return (call for name in names for call in self.called.get(name, ()))

    def arguments(self, called: str, index: int) -> list[str]:
        """The texts that are given to what is called so."""
        found = (call.args[index] for call in self.calls(called) if len(call.args) > index)
        return [text for node in found for text in self.texts(node)]

    def keywords(self, name: str) -> list[str]:
        """The texts that are given by this name."""
        found = (keyword for node in ast.walk(self.tree) if isinstance(node, ast.Call) for keyword in node.keywords)
        return [text for keyword in found if keyword.arg == name for text in self.texts(keyword.value)]

    def made(self, called: str) -> list[str]:
        """The texts that calls like ``Text(...)`` make."""
        return [text for call in self.calls(called) for text in self.texts(call)]

    def returned(self, function: str) -> list[str]:
        """The texts that a function returns."""
        return [text for node in self._ends(function, ast.Return) for text in self.texts(node)]

    def yielded(self, function: str) -> list[str]:
        """The texts that a function yields as the second of two."""
        pairs = (node for node in self._ends(function, ast.Yield) if isinstance(node, ast.Tuple))
        parts = (part for pair in pairs for part in self._parts(pair, 1))
        return [text for text in parts if text.strip(VALUE)]

    def _ends(self, function: str, kind: type[ast.Return | ast.Yield]) -> Iterator[ast.expr]:
        for node in ast.walk(self.tree):
            if isinstance(node, kind) and node.value and self.function(node) == function:
                yield from [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]

    def texts(self, node: ast.expr) -> list[str]:
        """Every text that the expression can be."""
        match node:
            case ast.Constant(value=str() | int() | float() as value):
                return [str(value)]
            case ast.JoinedStr(values=values):
                return ["".join(parts) for parts in product(*map(self.texts, values))]
            case ast.FormattedValue(value=value, conversion=conversion, format_spec=form):
                how = self.texts(form)[0] if form else ""
                return [_formatted(found, how, quoted=conversion == ord("r")) for found in self._values(value)]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return ["".join(parts) for parts in product(self.texts(left), self.texts(right))]
            case ast.BinOp(left=left, op=ast.Mod()):
                return [filled(text) for text in self.texts(left)]
            case ast.IfExp(body=first, orelse=second):
                return self.texts(first) + self.texts(second)
            case ast.BoolOp(op=ast.Or(), values=values):
                return [text for value in values for text in self.texts(value)]
            case ast.Call(func=ast.Name(id="Text"), args=[template, *_], keywords=keywords):
                named = {str(keyword.arg): self.texts(keyword.value)[0] for keyword in keywords}
                return [filled(text, **named) if named else text for text in self.texts(template)]
            case ast.Call(func=ast.Attribute(value=template, attr="format"), args=args):
                return [text for found in self.texts(template) for text in self._format(found, args)]
            case ast.Name() | ast.Attribute():
                return [_formatted(found) for found in self._values(node)]
        return [VALUE]

    def _values(self, node: ast.expr) -> list[Any]:
        """The values that a name can have, or a name of another module; of any other expression the texts."""
        match node:
            case ast.Name(id=name) if (local := self._local(node)) is not None:
                return local
            case ast.Name(id=name):
                value = getattr(self.module, name, None)
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                module = getattr(self.module, owner, None)
                own = inspect.ismodule(module) and module.__name__.startswith(PACKAGE.name)
                value = getattr(module, name, None) if own else None
            case ast.Attribute():
                value = None
            case _:
                return self.texts(node)
        return [value] if isinstance(value, str | int | float) and not isinstance(value, bool) else [VALUE]

    def _local(self, use: ast.Name) -> list[Any] | None:
        """The texts of a local name where it is used, or None if it is not local."""
        outer = [node for node in self.around(use) if isinstance(node, Function)]
        found: list[Any] | None = None
        for function in outer:
            arguments = function.args
            if use.id in [argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)]:
                found = [GIVEN if (self.name, function.name, use.id) in FORWARDED else VALUE]
            assigned = [
                node for node in ast.walk(function) if isinstance(node, ast.Assign | ast.AugAssign | ast.NamedExpr)
            ]
            for node in sorted(assigned, key=self._line):
                if self._line(node) >= self._line(use):
                    continue
                texts = self._assigned(node, use.id)
                if texts is None:
                    continue
                if isinstance(node, ast.AugAssign):
                    found = ["".join(parts) for parts in product(found or [VALUE], texts)]
                elif self.parents[node] in self.around(use):
                    found = texts
                else:
                    found = [*(found or []), *texts]
            if found is not None:
                break
        return found

    def _line(self, node: ast.AST) -> int:
        """Where the statement begins in which the node is: that is right in every version of Python."""
        return next(outer.lineno for outer in (node, *self.around(node)) if isinstance(outer, ast.stmt))

    def _assigned(self, node: ast.Assign | ast.AugAssign | ast.NamedExpr, name: str) -> list[str] | None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and target.id == name:
                return self.texts(node.value)
            if isinstance(target, ast.Tuple):
                for index, part in enumerate(target.elts):
                    if isinstance(part, ast.Name) and part.id == name:
                        return self._parts(node.value, index)
        return None

    def _parts(self, node: ast.expr, index: int) -> list[str]:
        if isinstance(node, ast.IfExp):
            return self._parts(node.body, index) + self._parts(node.orelse, index)
        return self.texts(node.elts[index]) if isinstance(node, ast.Tuple) else [VALUE]

    def _format(self, template: str, args: list[ast.expr]) -> Iterator[str]:
        return (_formatted_by(template, values) for values in product(*map(self.texts, args)))

    def keys(self, call: ast.Call) -> list[str]:
        """The names of the keyword arguments of a call, also of those in a dict with a name."""
        dicts = {ast.unparse(keyword.value) for keyword in call.keywords if not keyword.arg}
        assigned = (node for node in ast.walk(self.tree) if isinstance(node, ast.Assign))
        found = (node.value for node in assigned if ast.unparse(node.targets[0]) in dicts)
        own = [keyword.arg for keyword in call.keywords if keyword.arg]
        return own + [key for value in found if isinstance(value, ast.Dict) for key in map(_literal, value.keys) if key]


class Line(NamedTuple):
    """What a call logs."""

    place: str
    function: str
    text: str
    given: str = ""
    """The text, as far as it was given to a function that logs it."""
    level: str = ""
    """Empty if it is computed."""
    fields: frozenset[str] = frozenset()
    traceback: bool = False


ABOUT = frozenset(TermLog("", "", "").about)
OWN = {
    "log": Line("", "", GIVEN),
    "self._add": Line("", "", f"{VALUE}: {GIVEN}", fields=ABOUT),
}
"""What two of the forwarders make of a text. What the others make of it is in their own call of ``log``."""


@cache
def sources() -> tuple[Source, ...]:
    """Every module of the package."""
    return tuple(map(_source, sorted(PACKAGE.rglob("*.py"))))


def _source(path: Path) -> Source:
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    name = path.relative_to(PACKAGE).as_posix()
    try:
        module = import_module(dotted)
    except (ImportError, RuntimeError):  # RuntimeError: it is not in INSTALLED_APPS
        if name not in OPTIONAL:
            raise
        module = ModuleType(dotted)
    return Source(name, path.read_text(encoding="utf-8"), module)


@cache
def logged() -> list[Line]:
    """Every line that the package logs."""
    calls = [
        (called, line)
        for source in sources()
        for called in FORWARDERS
        for call in source.calls(called)
        for line in _lines(source, called, call)
    ]
    forwards = {(line.place.partition(":")[0], line.function): line for _, line in calls if GIVEN in line.text}
    frames = {called: OWN.get(called) or forwards[where[:2]] for called, where in FORWARDERS.items()}
    return [_framed(line, frames[called]) for called, line in calls if GIVEN not in line.text]


def _lines(source: Source, called: str, call: ast.Call) -> Iterator[Line]:
    index = {"log": 1, "self._add": 1, "call_logged": 1, "insist": 1}.get(called, 0)
    texts, behind = source.texts(call.args[index]), call.args[index + 1 :]
    arguments = list(product(*map(source.texts, behind))) if "%" in "".join(texts) else [()]
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    level = re.fullmatch(r"logging\.([A-Z]+)", ast.unparse(call.args[0]))
    fields = frozenset(source.keys(call)) if called == "self._add" else frozenset[str]()
    if "self._about" in map(ast.unparse, keywords.values()):
        fields = ABOUT
    for text, values in product(texts, arguments):
        place = f"{source.name}:{call.lineno}"
        shown = filled(text, *values)
        own = level[1] if level else ""
        yield Line(place, source.function(call), shown, shown, own, fields, "exc_info" in keywords)


def _framed(line: Line, frame: Line) -> Line:
    return Line(
        line.place,
        line.function,
        frame.text.replace(GIVEN, line.text),
        line.given,
        line.level or frame.level,
        line.fields | frame.fields,
        line.traceback or frame.traceback,
    )


def source(name: str) -> Source:
    """The module at this path of the package."""
    [found] = [found for found in sources() if found.name == name]
    return found


def filled(template: str, *values: str, **named: str) -> str:
    """The template with these values in it, and with marks where they do not suffice."""
    waiting = iter(values)

    def fill(found: re.Match[str]) -> str:
        return "%" if found[2] == "%" else named.get(found[1], VALUE) if found[1] else next(waiting, VALUE)

    return CONVERSION.sub(fill, template)


def fits(text: str, shown: str, fixed: Collection[str] = ()) -> bool:
    """Whether ``shown`` is how a page shows the text. For a value it has a word in angle brackets, or a fixed one."""
    named = (re.escape(word).replace(re.escape(VALUE), PLACE) for word in sorted(fixed, key=len, reverse=True))
    value = "(?:" + "|".join((PLACE, *named)) + ")"
    return re.fullmatch(value.join(map(re.escape, text.split(VALUE))), shown) is not None


def missing(texts: Iterable[str], places: Collection[str], fixed: Collection[str] = ()) -> list[str]:
    """The texts that none of the places shows."""
    return [text for text in texts if not any(fits(text, place, fixed) for place in places)]


def _formatted_by(template: str, values: Iterable[Any]) -> str:
    waiting = iter(values)
    return FIELD.sub(lambda field: _formatted(next(waiting), quoted="!r" in field[0]), template)


def _literal(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _of_partial(call: ast.Call) -> ast.Call:
    if ast.unparse(call.func) != "partial" or not call.args:
        return call
    return ast.copy_location(ast.Call(call.args[0], call.args[1:], call.keywords), call)


def _formatted(value: Any, form: str = "", *, quoted: bool = False) -> str:
    if value in (VALUE, GIVEN):
        return str(value)
    return repr(value) if quoted else format(value, form)
