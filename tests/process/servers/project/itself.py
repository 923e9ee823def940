"""An ``asgi.py`` that starts its own server: ``python -m …itself <way> <port>``.

It loads the application whatever the process is: the one that serves, its supervisor, a child that imports its
parent's program, or a fork server.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import sys
from typing import Any

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

NAME = "tests.process.servers.project.itself"

application = get_asgi_application()
wsgi = get_wsgi_application()


def module(name: str) -> Any:
    return importlib.import_module(name)


def uvicorn(port: int, **options: Any) -> None:
    module("uvicorn").run(f"{NAME}:application" if options else application, port=port, **options)


def hypercorn(port: int) -> None:
    config = module("hypercorn.config").Config.from_mapping(bind=[f"127.0.0.1:{port}"])
    asyncio.run(module("hypercorn.asyncio").serve(application, config))


def granian(port: int) -> None:
    module("granian.server").Server(f"{NAME}:application", port=port, interface="asgi", workers=2).serve()


def waitress(port: int) -> None:
    module("waitress").serve(wsgi, host="127.0.0.1", port=port)


def gunicorn(port: int) -> None:
    base: Any = module("gunicorn.app.base").BaseApplication

    class Application(base):  # type: ignore[misc]  # it may not be installed
        def load_config(self) -> None:
            self.cfg.set("bind", f"127.0.0.1:{port}")
            self.cfg.set("workers", 2)

        def load(self) -> Any:
            return wsgi

    Application().run()


def work() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()


def pool(port: int, method: str) -> None:
    """Beside the server, children that work for it."""
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":  # what it preloads by default depends on the version of Python
        multiprocessing.set_forkserver_preload([NAME])
    for _ in range(2):
        context.Process(target=work, daemon=True).start()
    waitress(port)


if __name__ == "__main__":
    way, number = sys.argv[1], int(sys.argv[2])
    if way in ("spawn", "forkserver"):
        pool(number, way)
    elif way == "uvicorn-workers":
        uvicorn(number, workers=2)
    elif way == "uvicorn-reload":
        uvicorn(number, reload=True)
    else:
        globals()[way](number)
