"""What is known of particular servers: which process serves, and when a worker begins or ends.

A rule for another server belongs here.

NOT guaranteed here:

- An immediate start in the workers of a server that is not named here, or has changed. Its workers become candidates at
  their first request, which is the fallback for all else.
- A hand-over when a server kills its worker, or ends it without calling the hook. A candidate on the same host then
  sees the death; otherwise the lease expires.

**gunicorn.** A worker loads the application by itself, so ``gunicorn.workers`` is on the stack. With ``--preload`` the
arbiter loads it, and then forks the workers. The hook that Python runs after a fork finds ``spawn_worker`` on the
stack, and chains ``post_worker_init`` in the worker's configuration. It does not start the election at once, because
the worker has not yet patched, forgotten or replaced what it will (gevent's hub, signals). ``post_worker_init`` is not
chained in the arbiter, because a reload (SIGHUP) makes a new configuration there. A worker ends by ``sys.exit``, so its
end needs no rule.

**uWSGI.** The master loads the application, except with ``--lazy-apps``, and forks the workers in C, where Python runs
no hook. So ``post_fork_hook`` is chained, or the list of ``uwsgidecorators`` if that module has taken the hook. The
election starts ``SERVES_SOON`` seconds later, unless a request comes before. ``uwsgi.atexit`` ends the elections: uWSGI
may run it in any thread, and where that is not the main one, Python's ``atexit`` is not run. Without
``--enable-threads`` only the threads that serve run, so an election would make no progress.

**Twisted.** The reactor replaces our handler of SIGTERM by its own, and ``twist`` then ends by the signal, without
``atexit``. So triggers of the reactor's shutdown make the elections hand over, and wait for that.

**Celery.** A worker replaces our handler of SIGTERM by its own, and then finishes all tasks that it has begun. Its
signal ``worker_shutting_down`` is sent before that, so the elections hand over at once.

**cheroot, daphne, granian, hypercorn, uvicorn, waitress.** A process that serves loads the application by itself, so a
module of ``LOADERS`` is on the stack. Its end needs no rule.

**mod_wsgi.** It is written in C and leaves nothing on the stack, but adds a module to the interpreter that serves.

**runserver, runserver_plus.** The reloader and the process that serves run the same command.
``autostart.inspect_process`` reads the mark that the reloader leaves in the environment of the other.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Collection, Container
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

from django_leader.runtime.lifecycle import lifecycle
from django_leader.system.forks import register, unless_forked
from django_leader.system.log import log
from django_leader.texts import Text

RELOADED_COMMANDS = ("runserver", "runserver_plus")
LOADERS = (
    "cheroot.cli",
    "daphne",
    "granian",
    "gunicorn.workers",
    "hypercorn.asyncio",
    "hypercorn.trio",
    "uvicorn",
    "waitress.runner",
)
"""Modules of servers that are on the stack if, and only if, a process loads the application to serve it.

gunicorn's arbiter and hypercorn's reloader load it, too, and do not serve. A program that has loaded it by itself and
then calls a server may be the supervisor of those that serve, or a child that imports its parent's program.
"""
EMBEDDING = ("mod_wsgi", "uwsgi")
"""Modules that a server in C adds to the interpreter in which it serves. It leaves nothing on the stack."""
SERVERS = (
    "cheroot",
    "daphne",
    "granian",
    "gunicorn",
    "hypercorn",
    "tornado",
    "uvicorn",
    "waitress",
    "wsgiref.handlers",
)
"""Modules of servers. A process that has loaded one may expect a first request."""
THREADLESS = Text("uWSGI runs without threads; start it with --enable-threads (enable-threads = true)")
SERVES_SOON = 0.3
"""Seconds after its fork by which a worker of uWSGI serves.

A signal that the worker gets earlier is lost, and uWSGI waits for it for ever. So little is done until then. With
signals in the first 60 ms 11 of 24 hung when the election started at once, 1 of 24 with this delay, and 1 of 24 without
this package.
"""


def serves(stack: Collection[str]) -> bool:
    """Return whether a server that serves in this process loads the application. ``stack``: modules. Local."""
    loading = any(f"{module}.".startswith(f"{loader}.") for module in stack for loader in LOADERS)
    return loading or any(name in sys.modules for name in EMBEDDING)


def is_prefork_master(stack: Collection[str]) -> bool:
    """Return whether a server will fork the processes that serve from this one. ``stack``: modules. Local."""
    arbiter = any(module.partition(".")[0] == "gunicorn" for module in stack) and "gunicorn.workers.base" not in stack
    uwsgi = sys.modules.get("uwsgi")
    return arbiter or (uwsgi is not None and uwsgi.worker_id() == 0)


def is_threadless() -> bool:
    """Return whether uWSGI runs only the threads that serve. Local."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None:
        return False
    if hasattr(uwsgi, "has_threads"):  # of versions that always have them
        return not uwsgi.has_threads
    options = {name.decode() if isinstance(name, bytes) else name for name in uwsgi.opt}
    return options.isdisjoint(("enable-threads", "threads", "gevent"))


def is_celery(stack: Collection[str]) -> bool:
    """Return whether this is a process of Celery, which serves no request. ``stack``: modules. Pure."""
    return any(module.startswith(("celery.bin", "celery.__main__")) for module in stack)


def expects_requests(modules: Container[str]) -> bool:
    """Return whether one of the loaded ``modules`` is a server's. Pure."""
    return any(server in modules for server in SERVERS)


def at_worker_start(start: Callable[[], None]) -> None:
    """Call ``start`` in each worker that a server forks from this process, when the worker serves. Local."""
    if uwsgi := sys.modules.get("uwsgi"):
        _chain_post_fork(uwsgi, start)
    else:
        register(after_in_child=partial(after_fork_of_gunicorn, start))


def at_worker_end(ask_to_stop: Callable[[], None]) -> None:
    """Stop the elections when the server ends this process, or call ``ask_to_stop`` when it begins to. Local."""
    if uwsgi := sys.modules.get("uwsgi"):
        _chain_exit(uwsgi)
    if signals := sys.modules.get("celery.signals"):
        signals.worker_shutting_down.connect(
            lambda **kwargs: ask_to_stop(), weak=False, dispatch_uid="django_leader.startup.servers"
        )


def at_reactor_end(ask_to_stop: Callable[[], None]) -> None:
    """Call ``ask_to_stop`` when Twisted's reactor shuts down, and have it wait for the hand-over. Local.

    Do nothing where our handler of SIGTERM is not installed, so call it when an election has started.
    """
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor and lifecycle.sigterm.chained:
        for phase, act in ("before", ask_to_stop), ("after", lifecycle.sigterm.wait):
            with suppress(Exception):  # the reactor has ended: the lease then expires
                reactor.callFromThread(reactor.addSystemEventTrigger, phase, "shutdown", act)


def after_fork_of_gunicorn(start: Callable[[], None]) -> None:
    """In the child of a fork: if gunicorn has made it a worker, have it call ``start`` when it is initialized."""
    worker = _gunicorn_worker()
    if worker is None:
        return
    try:
        then = worker.cfg.post_worker_init

        def post_worker_init(worker: Any) -> None:
            then(worker)
            start()

        worker.cfg.set("post_worker_init", post_worker_init)
    except Exception:
        text = "LEADER_ELECTIONS: gunicorn refused the hook; this worker is a candidate from its first request on"
        log(logging.ERROR, text, exc_info=True)


def _gunicorn_worker() -> Any:
    """Return the worker that gunicorn's arbiter has just forked, in its process; None in any other child."""
    frame: FrameType | None = sys._getframe()
    while frame:
        module = frame.f_globals.get("__name__", "")
        if module == "gunicorn.workers.base":  # a worker's own child
            return None
        if module == "gunicorn.arbiter" and frame.f_code.co_name == "spawn_worker":
            return frame.f_locals.get("worker")
        frame = frame.f_back
    return None


def _chain_post_fork(uwsgi: Any, start: Callable[[], None]) -> None:
    """Have uWSGI arrange that ``start`` is called in each worker, after what it calls there already."""

    def in_worker() -> None:
        if uwsgi.worker_id() > 0:  # and not in a mule or a spooler
            _chain_exit(uwsgi)
            timer = threading.Timer(SERVES_SOON, unless_forked(start))
            timer.daemon, timer.name = True, "django_leader start in uWSGI"
            with suppress(RuntimeError):  # no thread can be started: then the first request starts the election
                timer.start()

    if decorators := sys.modules.get("uwsgidecorators"):
        decorators.postfork_chain.append(in_worker)
        return
    before = getattr(uwsgi, "post_fork_hook", None)

    def post_fork_hook() -> None:
        if callable(before):
            before()
        in_worker()

    uwsgi.post_fork_hook = post_fork_hook


def _chain_exit(uwsgi: Any) -> None:
    """Have uWSGI stop the elections when a worker ends, before what it calls there already."""
    then = getattr(uwsgi, "atexit", None)

    def at_exit() -> None:
        lifecycle.exit()
        if callable(then):
            then()

    uwsgi.atexit = at_exit
