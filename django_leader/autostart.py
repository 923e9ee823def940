"""Whether an election starts by itself in this process: what is seen of it, and what follows.

Rules over ``sys.argv`` are wrong for some way of starting Django or other. What is telling is who called
``django.setup()``, so ``look`` walks the stack of ``AppConfig.ready()``. ``decide`` is a pure function over what was
seen. A process that serves requests although nothing on its stack said so (a fork of a preloaded application, a
server nobody knows) is caught at its first request.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Collection
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, NamedTuple

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_started

from .handler import elections, read
from .log import logger

VARIABLE = "DJANGO_LEADER_AUTOSTART"
RELOADED_COMMANDS = ("runserver", "runserver_plus")
ON, OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Seen:
    """What was seen of a process in which ``django.setup()`` runs."""

    variable: str = ""
    testing: bool = False
    command: str | None = None
    serving: bool = False
    """Of the two processes of ``runserver`` the one that serves."""
    prefork_master: bool = False
    """The process from which a server will fork those that serve."""
    entry_point: bool = False
    """``get_wsgi_application`` or ``get_asgi_application`` called it."""


Start = Literal["now", "at the first request", "never"]
AT_REQUEST: Start = "at the first request"


class Decision(NamedTuple):
    """When an election starts, and why."""

    start: Start
    why: str


def decide(seen: Seen, setting: bool | str, serving_commands: Collection[str] = ()) -> Decision:
    """What follows from what was seen and from ``AUTOSTART`` and ``SERVING_COMMANDS``. Pure; the first rule decides."""
    reloader = seen.command in RELOADED_COMMANDS and not seen.serving
    serving = seen.command in RELOADED_COMMANDS or seen.command in serving_commands
    rules: list[tuple[bool, Start, str]] = [
        (seen.variable.lower() in ON, "now", f"the environment variable {VARIABLE} says so"),
        (seen.variable.lower() in OFF, "never", f"the environment variable {VARIABLE} says so"),
        (setting is False, "never", "AUTOSTART is False"),
        (reloader, "never", f"this is the reloader of {seen.command!r}, not the process that serves"),
        (seen.prefork_master, AT_REQUEST, "this process only forks the ones that serve"),
        (setting is True, "now", "AUTOSTART is True"),
        (seen.testing, "never", "this is a test run"),
        (serving, "now", f"this is the process of {seen.command!r} that serves"),
        (seen.command is not None, "never", f"this is the management command {seen.command!r}"),
        (seen.entry_point, "now", "a server has loaded the WSGI or ASGI application"),
    ]
    for holds, start, why in rules:
        if holds:
            return Decision(start, why)
    return Decision(AT_REQUEST, "nothing says that this process serves requests, until it does")


def look() -> Seen:
    """What can be seen from here: the environment, the modules and the stack of the caller. Local."""
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
    uwsgi: Any = sys.modules.get("uwsgi")
    return Seen(
        variable=os.environ.get(VARIABLE, ""),
        testing=_in_tests(),
        command=None if argv is None else (argv[1] if len(argv) > 1 else "help"),
        serving="true" in (os.environ.get("RUN_MAIN"), os.environ.get("WERKZEUG_RUN_MAIN"))
        or "--noreload" in (argv or ()),
        prefork_master=("gunicorn.arbiter" in modules and "gunicorn.workers.base" not in modules)
        or (uwsgi is not None and uwsgi.worker_id() == 0),
        entry_point=bool(
            names & {("django.core.wsgi", "get_wsgi_application"), ("django.core.asgi", "get_asgi_application")}
        ),
    )


def _in_tests() -> bool:
    """Under pytest, or while Django's test environment is set up: then the mails go to ``mail.outbox``."""
    mail = sys.modules.get("django.core.mail")
    return "PYTEST_VERSION" in os.environ or "_pytest" in sys.modules or hasattr(mail, "outbox")


class _Starter:
    """Starts what was decided, once in each process."""

    def __init__(self) -> None:
        self.decisions: dict[str, Decision] = {}
        self.pid = 0

    def ready(self) -> None:
        seen, self.decisions = look(), {}
        for alias in elections:
            try:
                found = read(alias)
                self.decisions[alias] = decide(seen, found.autostart, found.serving_commands)
            except ImproperlyConfigured as error:
                logger.error("%s; this election does not start", error)
        if any(decision.start != "never" for decision in self.decisions.values()):
            request_started.connect(self.request_started, dispatch_uid="django_leader.autostart")
        if any(decision.start == "now" for decision in self.decisions.values()):
            threading.Thread(target=self._start_when_ready, name="django_leader start", daemon=True).start()

    def _start_when_ready(self) -> None:
        # A receiver that another app connects in its own ready() must not miss the first gain.
        apps.ready_event.wait()
        self.start("now")

    def request_started(self, **kwargs: Any) -> None:
        if self.pid != os.getpid() and not _in_tests():
            self.start("now", AT_REQUEST)

    def start(self, *when: str) -> None:
        self.pid = os.getpid()
        for alias, decision in self.decisions.items():
            if decision.start in when:
                try:
                    elections[alias].start()
                except Exception:
                    logger.exception("LEADER_ELECTIONS[%r]: not started", alias)


starter = _Starter()


def begin() -> None:
    """Called by ``AppConfig.ready()``: decides for every election, and starts those that start now. Never raises."""
    try:
        starter.ready()
    except Exception:
        logger.exception("LEADER_ELECTIONS: no election starts in this process")
