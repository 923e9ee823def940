"""The ways in which Django is run, and what is wanted of each. A line of the table each."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.servers import eventually

if TYPE_CHECKING:
    from tests.process.servers.harness import Run

PROJECT = "tests.process.servers.project"
WSGI, ASGI = f"{PROJECT}.wsgi:application", f"{PROJECT}.asgi:application"


@dataclass(frozen=True)
class Command:
    """A command that comes to its end by itself. Nothing of it is a candidate.

    In ``command``, ``{port}``, ``{folder}`` and ``{manage}`` stand for what each run has of its own.
    """

    name: str
    command: str
    package: str = "Django"
    """The distribution that is run, whose version is shown."""
    note: str = ""
    """The one thing that matters to whoever runs it so."""
    needs: tuple[str, ...] = ()
    """More distributions."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Way(Command):
    """A way of running that goes on until it is stopped."""

    main: bool = False
    """Whether the process is a candidate that its supervisor knows: masters and reloaders must not be one."""
    children: int = 0
    """How many of those that it has started are candidates."""
    tasks: bool = False
    """Whether it runs tasks, or sends them, instead of answering requests."""
    at_request: bool = False
    """Whether it is a candidate from its first request on, and not before."""
    stop: signal.Signals = signal.SIGTERM
    to_all: bool = False
    """Whether the signal reaches every process, like Ctrl-C in a terminal."""
    releases: bool = True
    """Whether the leader hands over when the server is stopped. Where it is killed instead, its death is seen."""
    hurried: bool = False
    """Whether it kills its children soon after the signal: one that is slow to end hands over by its death."""
    idle: bool = False
    """Whether it must have no request under way when it is stopped. If it has, it never ends, also without us."""
    replaces: bool = True
    """Whether the server starts another worker for one that is killed."""
    orphans: bool = False
    """Whether its workers go on when its main process is killed."""
    first: Callable[[Run], object] | None = None
    """What happens to it before it is stopped. How it is killed, and what it does without us, is another one's line."""


def hang_up(run: Run) -> None:
    run.leader_changes(lambda: run.process.send_signal(signal.SIGHUP))
    run.look()


def touch(run: Run) -> None:
    run.leader_changes((run.folder / "touched.py").touch)
    run.look()


def serve_many(run: Run) -> None:
    for _ in range(2):
        run.leader_changes(lambda: None)
    run.over.set()
    run.settles()


def occupy(run: Run) -> None:
    """Both workers do not come back from a request."""
    for _ in range(2):
        threading.Thread(target=run.ask, args=("?seconds=30",), daemon=True).start()
    eventually(lambda: len([*run.folder.glob("occupied-*")]) == 2, "nobody is left who answers")


def hang(run: Run) -> None:
    run.leader_changes(lambda: occupy(run))
    run.look()


def manage(name: str, arguments: str, note: str, package: str = "Django", **more: Any) -> Way:
    return Way(f"{name}", f"{{manage}} {arguments}", package, note, **{"replaces": False, **more})


def gunicorn(name: str, arguments: str, note: str, app: str = WSGI, **more: Any) -> Way:
    command = f"gunicorn --workers 2 --bind 127.0.0.1:{{port}} {arguments} {app}"
    return Way(f"gunicorn {name}", command, "gunicorn", note, children=2, **more)


def uwsgi(name: str, arguments: str, note: str, **more: Any) -> Way:
    command = f"uwsgi --http-socket 127.0.0.1:{{port}} --master --processes 2 {arguments} --module {WSGI}"
    return Way(f"uWSGI {name}", command, "uWSGI", note, children=2, **more)


def uvicorn(name: str, arguments: str, note: str, app: str = ASGI, **more: Any) -> Way:
    return Way(f"uvicorn{name}", f"uvicorn --port {{port}} {arguments} {app}", "uvicorn", note, **more)


def granian(interface: str, app: str) -> Way:
    command = f"granian --interface {interface} --workers 2 --port {{port}} {app}"
    note = "without `--respawn-failed-workers` it ends when a worker dies"
    return Way(f"granian {interface.upper()}", command, "granian", note, children=2, replaces=False)


def celery(name: str, arguments: str, opted_in: bool = True) -> Way:
    """One that is not opted in has nothing to hand over, and nothing to kill."""
    return Way(
        f"celery {name}" + ("" if opted_in else ", by default"),
        f"celery --app {PROJECT}.tasks {arguments}",
        "celery",
        "`DJANGO_LEADER_AUTOSTART=1`, the main process alone" if opted_in else "is not participating unless told to",
        environment={"DJANGO_LEADER_AUTOSTART": "1"} if opted_in else {},
        tasks=True,
        main=opted_in,
    )


def script(name: str, arguments: str, note: str) -> Way:
    command = f"python -m {PROJECT}.script {{port}} {arguments}"
    return Way(name, command, "Django", note, main=True, at_request=True)


def itself(name: str, way: str, package: str, note: str, **more: Any) -> Way:
    command = f"python -m {PROJECT}.itself {way} {{port}}"
    return Way(f"own program, {name}", command, package, note, at_request=True, **more)


# Both reloaders wait in subprocess.call(), which kills 0.25 s after Ctrl-C.
CTRL_C: dict[str, Any] = {"stop": signal.SIGINT, "to_all": True, "children": 1, "hurried": True}
RELOADER = "the process that serves, not the reloader"
GRACEFULLY = "--enable-threads --hook-master-start 'unix_signal:15 gracefully_kill_them_all'"
UWSGI = "`enable-threads = true`, `hook-master-start = unix_signal:15 gracefully_kill_them_all`"
SIGTERM = "`HANDLE_SIGTERM`, which is on: the process ends by the signal, past `atexit`"
DIES = "a worker that is stopped within a request runs no `atexit`: its death is seen on the same host"
ORPHANS = "workers outlive a main process that is killed, and lead on"
COMMANDS = "`SERVING_COMMANDS` for one that serves"
TESTS = "`django_leader.testing.leading()` for a test of what leaders do"
FIRST = "from its first request on"
SUPERVISOR = (
    "workers from their first request on; the process that starts them never, although it loads the application"
)
POOL = "children that work for the server are not participating, although they load the application"
LOADED = "a process that loads the application, and never serves, is not participating"
PREFORK = "worker --pool prefork --concurrency 2"
PLUS: dict[str, Any] = {"needs": ("Werkzeug",), "environment": {"SERVERS_APPS": "django_extensions"}}
SAMPLE = "tests/process/servers/project/sample.py"

WAYS: list[Command] = [
    manage("runserver, Ctrl-C", "runserver {port}", RELOADER, **CTRL_C),
    manage("runserver, a file changes", "runserver {port}", RELOADER, first=touch, **CTRL_C),
    manage(
        "runserver, SIGTERM",
        "runserver {port}",
        "the reloader kills the process that serves: its death is seen on the same host",
        children=1,
        releases=False,
    ),
    manage("runserver --noreload", "runserver {port} --noreload", SIGTERM, main=True),
    manage(
        "runserver_plus",
        "runserver_plus 127.0.0.1:{port} --reloader-type stat",
        RELOADER,
        "django-extensions",
        **CTRL_C,
        **PLUS,
    ),
    gunicorn("sync", "", "`graceful_timeout` longer than a request: after it workers are killed"),
    gunicorn("gthread", "--threads 4", "as sync"),
    gunicorn(
        "gevent",
        "--worker-class gevent",
        "threads are greenlets: a request that only computes delays the heartbeat",
        needs=("gevent",),
    ),
    gunicorn("--preload", "--preload", "workers start it after the fork, the master never"),
    gunicorn(
        "gevent --preload",
        "--worker-class gevent --preload",
        "`gevent.monkey.patch_all()` at the top of `gunicorn.conf.py`, as Django needs it",
        needs=("gevent",),
    ),
    gunicorn("ASGI worker", "--worker-class asgi", "as sync", ASGI),
    gunicorn(
        "uvicorn's worker",
        "--worker-class uvicorn.workers.UvicornWorker",
        ORPHANS,
        ASGI,
        needs=("uvicorn",),
        orphans=True,
    ),
    gunicorn("--max-requests", "--max-requests 60", "a worker that is replaced hands over", first=serve_many),
    gunicorn("SIGHUP", "", "workers that are replaced hand over", first=hang_up),
    gunicorn("worker timeout", "--timeout 6", "a worker that hangs is told to abort, and hands over", first=hang),
    uwsgi("prefork", GRACEFULLY, UWSGI),
    uwsgi("--lazy-apps", f"{GRACEFULLY} --lazy-apps", UWSGI),
    uwsgi("--die-on-term, busy", "--enable-threads --die-on-term", DIES, first=occupy, releases=False),
    uvicorn("", "", SIGTERM, main=True),
    uvicorn(
        ", lifespan alone",
        "",
        "`handing_over(get_asgi_application())`, here with `HANDLE_SIGTERM` off",
        app=f"{PROJECT}.asgi:handed_over",
        main=True,
        environment={"SERVERS_SIGTERM": "0"},
    ),
    uvicorn(" --workers 2", "--workers 2", ORPHANS, children=2, orphans=True),
    uvicorn(" --reload", "--reload --reload-dir {folder}", RELOADER, children=1, replaces=False),
    uvicorn(" --reload, a file changes", "--reload --reload-dir {folder}", RELOADER, children=1, first=touch),
    Way("daphne", f"daphne -p {{port}} {ASGI}", "daphne", "nothing to set", main=True),
    granian("wsgi", WSGI),
    granian("asgi", ASGI),
    Way(
        "hypercorn",
        f"hypercorn --workers 2 --bind 127.0.0.1:{{port}} {ASGI}",
        "Hypercorn",
        "it ends when a worker dies",
        children=2,
        replaces=False,
    ),
    Way(
        "waitress",
        f"waitress-serve --listen=127.0.0.1:{{port}} {WSGI}",
        "waitress",
        SIGTERM,
        main=True,
    ),
    Way(
        "hypercorn --reload",
        f"hypercorn --reload --workers 2 --bind 127.0.0.1:{{port}} {ASGI}",
        "Hypercorn",
        RELOADER,
        children=2,
        replaces=False,
    ),
    Way("cheroot", f"cheroot --bind 127.0.0.1:{{port}} {WSGI}", "cheroot", SIGTERM, main=True),
    Way(
        "twist web",
        f"twist web --listen tcp:{{port}}:interface=127.0.0.1 --wsgi {PROJECT}.wsgi.application",
        "Twisted",
        SIGTERM,
        main=True,
        idle=True,  # 3 of 96 hung without us: a request waits for the reactor, which joins the threads of requests
    ),
    itself("uvicorn.run", "uvicorn", "uvicorn", FIRST, main=True),
    itself("uvicorn.run, workers=2", "uvicorn-workers", "uvicorn", SUPERVISOR, children=2, orphans=True),
    itself("uvicorn.run, reload=True", "uvicorn-reload", "uvicorn", SUPERVISOR, children=1, replaces=False),
    itself("hypercorn.asyncio.serve", "hypercorn", "Hypercorn", FIRST, main=True),
    itself("granian, workers=2", "granian", "granian", SUPERVISOR, children=2, replaces=False),
    itself("waitress.serve", "waitress", "waitress", FIRST, main=True),
    itself("gunicorn BaseApplication", "gunicorn", "gunicorn", SUPERVISOR, children=2),
    itself("children by spawn", "spawn", "waitress", POOL, main=True),
    itself("children by forkserver", "forkserver", "waitress", POOL, main=True),
    celery("worker, solo", "worker --pool solo"),
    celery("worker, threads", "worker --pool threads --concurrency 2"),
    celery("worker, prefork", PREFORK),
    celery("beat", "beat"),
    celery("worker, prefork", PREFORK, opted_in=False),
    celery("beat", "beat", opted_in=False),
    script("script with django.setup()", "", "from its first request on"),
    script("script that forks", "fork", "the child is not participating, and its end releases nothing"),
    Command("migrate", "{manage} migrate -v0", note=COMMANDS),
    Command("check", "{manage} check", note=COMMANDS),
    Command("collectstatic", "{manage} collectstatic --noinput -v0", note=COMMANDS),
    Command("shell", "{manage} shell -c 'import time; time.sleep(0.5)'", note=COMMANDS),
    Command("test", f"{{manage}} test {PROJECT}.sample", note=TESTS),
    Command("import of wsgi.py", f"python -c 'import {PROJECT}.wsgi, time; time.sleep(0.5)'", note=LOADED),
    Command("pydoc", f"python -m pydoc {PROJECT}.wsgi", note=LOADED),
    Command("pytest-django", f"pytest --ds {PROJECT}.settings -p no:cacheprovider {SAMPLE}", "pytest-django", TESTS),
]
