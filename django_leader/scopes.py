"""``Scope``: what holds while a block, a function or the tests of a class run. It knows nothing of elections.

Django's ``TestContextDecorator`` is not used, because it would silently do nothing in cases in which a test must not go
on: for a generator function, for a class whose ``setUp`` does not call that of its base, for ``setUpClass``, and for a
function that returns a coroutine.
"""

from __future__ import annotations

import inspect
import threading
import unittest
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction

Target = TypeVar("Target")

_SCOPES = "_django_leader_scopes"
"""The attribute of a class with its own scopes, the outermost first. A class that has it has been hooked."""


class Scope:
    """A decorator of functions, coroutine functions and classes of tests, and a context manager.

    One object may be used again, nested, and in several threads. Raise ``TypeError`` for a target that could not run
    within it.
    """

    def __init__(
        self, name: str, begin: Callable[[], Callable[[], None]], check: Callable[[], object] = lambda: None
    ) -> None:
        """Make a scope. ``begin`` returns what ends this use; ``check`` raises if the use can have no effect."""
        self.name, self._begin, self.check = name, begin, check
        self._lock = threading.Lock()
        # Under the lock:
        self._entered: list[tuple[int, AbstractContextManager[None]]] = []
        """The uses by ``with``, and the thread of each."""

    @contextmanager
    def use(self, *, check: bool = True) -> Iterator[None]:
        """Hold within one block. ``check=False`` leaves it to the caller to check when it can."""
        end = self._begin()
        try:
            if check:
                self.check()
            yield
        finally:
            end()

    def __enter__(self) -> None:
        use = self.use()
        use.__enter__()
        with self._lock:
            self._entered.append((threading.get_ident(), use))

    def __exit__(self, *error: object) -> None:
        with self._lock:
            here = threading.get_ident()
            own = [index for index, (thread, _) in enumerate(self._entered) if thread == here]
            _, use = self._entered.pop(own[-1] if own else -1)  # it may have been entered in another thread
        use.__exit__(None, None, None)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self.__exit__()

    def __call__(self, target: Target) -> Target:
        """Return ``target`` such that it runs within the scope: a class itself, anything else wrapped."""
        decorated: Any
        if isinstance(target, type):
            decorated = _decorate_class(self, target)
        elif isinstance(target, staticmethod | classmethod):
            decorated = type(target)(self(target.__func__))
        else:
            decorated = _decorate_function(self, target)
        return decorated  # type: ignore[no-any-return]


def _decorate_function(scope: Scope, function: Any) -> Any:
    if _is_fixture(function):
        raise TypeError(f"{function!r} is a pytest fixture already; write @pytest.fixture above @{scope.name}(...)")
    if not callable(function):
        raise TypeError(
            f"@{scope.name}(...) cannot decorate {function!r}; use it for a function or a class of tests, "
            f"or write 'with {scope.name}(...):'"
        )
    call = function.__call__
    if inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(call):
        raise TypeError(
            f"@{scope.name}(...) cannot decorate the asynchronous generator {function!r}; "
            f"write 'with {scope.name}(...):' around its yield"
        )
    if iscoroutinefunction(function) or iscoroutinefunction(call):
        return _within_coroutine(scope, function)
    if inspect.isgeneratorfunction(function) or inspect.isgeneratorfunction(call):
        return _within_generator(scope, function)
    return _within(scope, function)


def _is_fixture(target: object) -> bool:
    # pytest 8.3 marks the function, later versions return an object. Mocks have every attribute, so ask the dict.
    marked = "_pytestfixturefunction" in getattr(target, "__dict__", ())
    return marked or type(target).__name__ == "FixtureFunctionDefinition"


def _within(scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def within(*args: Any, **kwargs: Any) -> Any:
        with scope.use():
            result = function(*args, **kwargs)
        if isinstance(result, Awaitable | Generator) or inspect.isasyncgen(result):
            kind = type(result).__name__
            if inspect.iscoroutine(result):
                result.close()  # or Python warns that it was never awaited
            raise TypeError(
                f"{function!r} returned a {kind}, which would run after the end of @{scope.name}(...); "
                f"write 'with {scope.name}(...):' where it runs"
            )
        return result

    return within


def _within_coroutine(scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    async def within(*args: Any, **kwargs: Any) -> Any:
        with scope.use():
            return await function(*args, **kwargs)

    return within


def _within_generator(scope: Scope, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def within(*args: Any, **kwargs: Any) -> Any:
        with scope.use():
            return (yield from function(*args, **kwargs))

    return within


def _decorate_class(scope: Scope, cls: type) -> type:
    tests = issubclass(cls, unittest.TestCase) or cls.__name__.startswith("Test")
    if not tests and not any(name.startswith("test") for name in dir(cls)):
        raise TypeError(
            f"@{scope.name}(...): {cls!r} has no tests; decorate a unittest.TestCase, a class with test methods, "
            f"or a function"
        )
    _hook(cls)
    # Decorators are applied from the inside out. The innermost one is entered last, as with functions.
    setattr(cls, _SCOPES, (scope, *vars(cls)[_SCOPES]))
    return cls


def _scopes_of(cls: type) -> list[Scope]:
    """Return the scopes of a class, those of its bases first, so that those of a subclass prevail."""
    return [scope for kind in reversed(cls.__mro__) for scope in vars(kind).get(_SCOPES, ())]


def _hook(cls: type) -> None:
    """Have ``cls`` and all its later subclasses enter their scopes around their set-up, tests and tear-down.

    Each subclass has hooks of its own, because it may define ``setUpClass`` without calling that of its base.
    """
    if _SCOPES in vars(cls):
        return
    inherits = any(_SCOPES in vars(kind) for kind in cls.__mro__)
    setattr(cls, _SCOPES, ())
    if issubclass(cls, unittest.TestCase):
        _hook_unittest(cls)
    else:
        _hook_pytest(cls)
    if not inherits:
        proceed = _own_or_next(cls, "__init_subclass__")

        def init_subclass(sub: type, /, **kwargs: Any) -> None:
            proceed(sub)(**kwargs)
            _hook(sub)

        cls.__init_subclass__ = classmethod(init_subclass)  # type: ignore[assignment, method-assign]


def _hook_unittest(cls: type[unittest.TestCase]) -> None:
    proceed = _own_or_next(cls, "setUpClass")

    def setUpClass(actual: type[unittest.TestCase]) -> None:
        if actual is not cls:  # a subclass, whose own hook has been called first
            proceed(actual)()
            return
        stack = ExitStack()
        cls.addClassCleanup(stack.close)
        with _entered(cls, stack):
            proceed(cls)()

    cls.setUpClass = classmethod(setUpClass)  # type: ignore[assignment]


def _hook_pytest(cls: type) -> None:
    set_up, tear_down = _own_or_next(cls, "setup_class"), _own_or_next(cls, "teardown_class")
    opened: list[ExitStack] = []

    # ``actual`` is another class, but no subclass, for the tests of a class that is nested in this one.
    def setup_class(actual: type) -> None:
        if actual is not cls and issubclass(actual, cls):
            _call_with(set_up(actual), actual)
            return
        with ExitStack() as stack:
            with _entered(cls, stack):
                _call_with(set_up(cls), actual)
            opened.append(stack.pop_all())  # pytest does not tear down what has failed to set up

    def teardown_class(actual: type) -> None:
        if actual is not cls and issubclass(actual, cls):
            _call_with(tear_down(actual), actual)
            return
        with opened.pop():
            _call_with(tear_down(cls), actual)

    hooked: Any = cls
    hooked.setup_class, hooked.teardown_class = classmethod(setup_class), classmethod(teardown_class)


@contextmanager
def _entered(cls: type, stack: ExitStack) -> Iterator[None]:
    """Enter the scopes of ``cls`` until ``stack`` is closed; check them after the block, which sets up the class.

    The set-up may provide what the check asks for: ``@override_settings`` counts from within ``setUpClass`` on.
    """
    scopes = _scopes_of(cls)
    for scope in scopes:
        stack.enter_context(scope.use(check=False))
    yield
    for scope in scopes:
        scope.check()


def _own_or_next(cls: type, name: str) -> Callable[[type], Callable[..., Any]]:
    """Return a function that finds the method which ``cls`` would have called before it was hooked."""
    own = vars(cls).get(name)

    def find(actual: type) -> Callable[..., Any]:
        if own is not None:
            return own.__get__(None, actual)  # type: ignore[no-any-return]
        return getattr(super(cls, actual), name, lambda: None)

    return find


def _call_with(method: Callable[..., Any], cls: type) -> None:
    """Call ``setup_class`` as pytest does: bound to no class, and with ``cls`` if it takes an argument."""
    function = getattr(method, "__func__", method)
    if function.__code__.co_argcount:
        function(cls)
    else:
        function()
