"""What the decorators can guard.

``@leader_required`` guards a management command, since Django calls what the decorator returns. ``@leader_only`` guards
a function or a coroutine function.

The function may have been given to another framework already. That would call the body unguarded, and without notice.
So ``@leader_required`` refuses, where it is written, a target that is not clearly a command or a method of one, and
``@leader_only`` what another framework has made of a function: a task, for example.

NOT guaranteed here: that no decorator below has put the function where it cannot be seen. A function that was
registered that way runs unguarded; write the decorator of this package next to the function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from asgiref.sync import iscoroutinefunction
from django.core.management.base import BaseCommand

Target = TypeVar("Target", bound=type[BaseCommand] | Callable[..., str | None])
"""A command class, or a method with the result of ``handle``. Decorated, it keeps its type."""

ADVICE = "Decorate a subclass of BaseCommand, or its method 'def handle(self, *args, **options)', and do the work in it"
RUNS_LATE = "so its body would run after the lease has been released"
_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)


class Decorator(Protocol):
    """What ``leader_required`` returns when it is called with arguments alone."""

    def __call__(self, target: Target, /) -> Target:
        """Return the guarded ``target``."""
        ...


def check_target(target: Any) -> None:
    """Raise ``TypeError``, which says what to decorate instead, unless ``target`` can be guarded. Local."""
    if problem := _problem_of_class(target) if isinstance(target, type) else _problem(target):
        raise TypeError(f"leader_required: {target!r} is neither a command class nor its handle: {problem}. {ADVICE}")


def check_command(command: Any, target: Any) -> None:
    """Raise ``TypeError`` unless the guarded ``target`` is called with a ``command`` of Django. Local."""
    if not isinstance(command, BaseCommand):
        raise TypeError(f"leader_required: {target!r} was called with {command!r}, which is no command. {ADVICE}")


def check_function(name: str, target: Any) -> None:
    """Raise ``TypeError`` unless the decorator ``name`` can guard ``target``, a function of any kind. Local."""
    problem = ""
    if isinstance(target, type):
        problem = "it is a class; decorate its methods"
    elif isinstance(target, staticmethod | classmethod):
        problem = f"write @{name} below @{type(target).__qualname__}"
    # Before the next condition: since Python 3.14 a ``partial`` counts as a routine, because a class binds it.
    elif isinstance(target, functools.partial):
        problem = "it is a functools.partial; write a function that makes the call"
    elif not inspect.isroutine(target) and (problem := _problem_of_object(target)):
        problem += f"; write @{name} below the decorator that has made it"
    elif _is_generator_function(target):
        problem = "it is a generator function, so its body would run after the check"
    if problem := problem or _problem_of_keeper(target, name):
        raise TypeError(f"{name}: {target!r} cannot be guarded: {problem}")


def _problem_of_class(target: type) -> str:
    if not issubclass(target, BaseCommand):
        return "it is no subclass of BaseCommand"
    handle = inspect.getattr_static(target, "handle")
    if handle is BaseCommand.handle:
        return "the class has no handle"
    problem = _problem(handle)
    return f"its handle: {problem}" if problem else ""


def _problem(target: Any) -> str:
    if isinstance(target, BaseCommand):
        return "it is an instance, and Django makes another one of the class"
    if isinstance(target, staticmethod | classmethod):
        return f"a {type(target).__qualname__} is not called with the command"
    if inspect.ismethod(target):
        return "it is bound to an object, and the class keeps the unguarded function"
    if problem := _problem_of_object(target):
        return problem
    if iscoroutinefunction(target):
        return f"it is a coroutine function, and Django awaits no command, {RUNS_LATE} (asgiref's async_to_sync helps)"
    if _is_generator_function(target):
        return f"it is a generator function, {RUNS_LATE}"
    return _problem_of_signature(target) or _problem_of_keeper(target, "leader_required")


def _problem_of_object(target: Any) -> str:
    kind = f"{type(target).__module__}.{type(target).__qualname__}".removeprefix("builtins.")
    if not hasattr(type(target), "__get__") or not callable(target) or isinstance(target, functools.partial):
        return f"it is an object of {kind}, which its own framework would call unguarded"
    return ""


def _is_generator_function(target: Any) -> bool:
    return inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target)


def _problem_of_signature(target: Any) -> str:
    try:
        first = next(iter(inspect.signature(target).parameters.values()), None)
    except (TypeError, ValueError):
        return ""  # compiled, without a signature
    if first is None or first.kind in _BY_NAME:
        return "it cannot be called with the command as its first argument"
    if first.name != "self" and "." not in getattr(target, "__qualname__", "."):
        return "it is a function outside of a class, and a framework that has been given it calls it unguarded"
    return ""


def _problem_of_keeper(target: Any, decorator: str) -> str:
    """Return the problem if an attribute leads a framework to the function, as of django-typer's ``@command()``."""
    for name, value in getattr(target, "__dict__", {}).items():
        for cell in getattr(value, "__closure__", None) or ():
            with suppress(ValueError):  # an empty cell
                if cell.cell_contents is target:
                    return f"its attribute {name} leads to the unguarded function; write @{decorator} below its maker"
    return ""
