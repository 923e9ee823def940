"""Whether an election starts by itself in this process: what is seen of it, and what follows.

Any rule over ``sys.argv`` is wrong for some way of starting Django. The callers of ``django.setup()`` show what the
process is for, so ``inspect_process`` walks the stack of ``AppConfig.ready()``. ``decide`` is a pure function over what
was seen; ``starter`` carries it out. What tells one server from another is in ``servers``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from types import FrameType
from typing import Literal, NamedTuple

from django_leader.system.forks import unsupported
from django_leader.texts import Text

from . import servers

VARIABLE = "DJANGO_LEADER_AUTOSTART"
ON, OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class Seen(NamedTuple):
    """What was seen of a process in which ``django.setup()`` runs."""

    variable: str = ""
    unsupported: str = ""
    """What the platform lacks."""
    testing: bool = False
    inherited: bool = False
    """Whether the process that has started this one runs tests, and this one does not: pytest leaves its mark in the
    environment."""
    command: str | None = None
    serving: bool = False
    """Whether this is the one of the two processes of ``runserver`` that serves."""
    prefork_master: bool = False
    """Whether a server will fork the processes that serve from this one."""
    threadless: bool = False
    """Whether uWSGI runs only the threads that serve, so that an election would make no progress."""
    celery: bool = False
    entry_point: bool = False
    """Whether a server, in a process that serves, called ``get_wsgi_application`` or ``get_asgi_application``."""
    loaded: bool = False
    """Whether something else called one of them."""


Start = Literal["now", "in each worker", "at the first request", "never"]
IN_WORKERS: Start = "in each worker"
AT_REQUEST: Start = "at the first request"
BY_VARIABLE = Text("the environment variable %(variable)s says so", variable=VARIABLE)
BY_SETTING = Text("AUTOSTART is False")
OPTED_OUT = (BY_VARIABLE, BY_SETTING)
TEST_RUN = Text("this is a test run")
STARTED_BY_TESTS = Text(
    "pytest has started this server (PYTEST_VERSION is in its environment); set %(variable)s=1 to make it a candidate",
    variable=VARIABLE,
)
CELERY = Text("this is a Celery process; set %(variable)s=1 to make its main process a candidate", variable=VARIABLE)


class Decision(NamedTuple):
    """When an election starts, and why."""

    start: Start
    why: str


BEAT = Decision("never", Text("only the scheduler of Celery beat takes part in this election"))
"""Of the election of Celery beat, whatever is set."""


def decide(seen: Seen, setting: bool | str, serving_commands: Collection[str] = ()) -> Decision:
    """Decide by what was seen and by ``AUTOSTART`` and ``SERVING_COMMANDS``. Pure; the first rule decides.

    The variable and the setting say whether an election starts. They cannot change where it starts: not in a process
    that only watches or forks the processes that serve.
    """
    command = seen.command
    reloader = command in servers.RELOADED_COMMANDS and not seen.serving
    serving = command in servers.RELOADED_COMMANDS or command in serving_commands
    serves = serving or seen.entry_point or seen.loaded
    refused = refusal(seen.variable)
    rules: list[tuple[bool, Start, str]] = [
        (bool(seen.unsupported), "never", seen.unsupported),
        (bool(refused), "never", refused),
        (seen.variable.lower() in OFF, "never", BY_VARIABLE),
        (setting is False and seen.variable.lower() not in ON, "never", BY_SETTING),
        (reloader, "never", Text("this is the reloader of %(command)r, not the process that serves", command=command)),
        (seen.threadless, "never", servers.THREADLESS),
        (seen.prefork_master, IN_WORKERS, Text("this process only forks the processes that serve")),
        (seen.variable.lower() in ON, "now", BY_VARIABLE),
        (setting is True, "now", Text("AUTOSTART is True")),
        (seen.testing and seen.inherited and serves, "never", STARTED_BY_TESTS),
        (seen.testing, "never", TEST_RUN),
        (serving, "now", Text("this is the process of %(command)r that serves", command=command)),
        (command is not None, "never", Text("this is the management command %(command)r", command=command)),
        (seen.celery, "never", CELERY),
        (seen.entry_point, "now", Text("a server has loaded the WSGI or ASGI application")),
        (seen.loaded, AT_REQUEST, Text("no known server has loaded the application, so the first request decides")),
    ]
    for holds, start, why in rules:
        if holds:
            return Decision(start, why)
    return Decision(AT_REQUEST, Text("nothing shows that this process serves requests before it gets one"))


def refusal(variable: str) -> str:
    """Return why the value of the environment variable is refused; empty if it is not. Pure."""
    if variable.lower() in ("", *ON, *OFF):
        return ""
    return Text(
        "the environment variable %(variable)s is %(value)r; use 1, 0, or leave it out",
        variable=VARIABLE,
        value=variable,
    )


def inspect_process() -> Seen:
    """Return what can be seen from here: the environment, the modules and the stack of the caller. Local."""
    names = set()
    argv: list[str] | None = None
    frame: FrameType | None = sys._getframe()
    while frame:
        module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        names.add((module, function))
        if module == "django.core.management" and function == "execute" and argv is None:
            argv = list(getattr(frame.f_locals.get("self"), "argv", ["", ""]))
        frame = frame.f_back
    modules = {module for module, _ in names}
    loaded = not names.isdisjoint(
        {("django.core.wsgi", "get_wsgi_application"), ("django.core.asgi", "get_asgi_application")}
    )
    entry_point = loaded and servers.serves(modules)
    return Seen(
        variable=os.environ.get(VARIABLE, ""),
        unsupported=unsupported(),
        testing=in_tests(),
        inherited="_pytest" not in sys.modules and not _has_outbox(),
        command=None if argv is None else (argv[1] if len(argv) > 1 else "help"),
        serving="true" in (os.environ.get("RUN_MAIN"), os.environ.get("WERKZEUG_RUN_MAIN"))
        or any(argument.startswith("--nor") for argument in argv or ()),  # --noreload, which may be shortened so far
        prefork_master=servers.is_prefork_master(modules),
        threadless=servers.is_threadless(),
        celery=servers.is_celery(modules),
        entry_point=entry_point,
        loaded=loaded and not entry_point,
    )


def in_tests() -> bool:
    """Return whether this runs under pytest, or in Django's test environment, whose mails go to ``mail.outbox``."""
    return "PYTEST_VERSION" in os.environ or "_pytest" in sys.modules or _has_outbox()


def _has_outbox() -> bool:
    return hasattr(sys.modules.get("django.core.mail"), "outbox")


def is_test_process() -> bool:
    """Return whether this process itself runs tests: of pytest, of Django's runner or of ``unittest``. Local.

    This is narrower than ``in_tests``, because it decides whether a command is refused. A process that a test starts
    inherits the environment of pytest, an application in production may import pytest, and the mail backend ``locmem``
    makes an outbox there, too.
    """
    pytest = "_pytest" in sys.modules and ("PYTEST_VERSION" in os.environ or "PYTEST_CURRENT_TEST" in os.environ)
    django = hasattr(getattr(sys.modules.get("django.test.utils"), "_TestState", None), "saved_data")
    return pytest or django or _called_by_tests()


def _called_by_tests() -> bool:
    frame: FrameType | None = sys._getframe()
    while frame:
        module = str(frame.f_globals.get("__name__"))
        if module in ("unittest.case", "unittest.suite") or module.startswith("_pytest."):
            return True
        frame = frame.f_back
    return False
