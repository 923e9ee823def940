"""A script that nobody knows: it sets Django up and, later, serves. With ``fork`` a child does nothing beside it."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.connection import Connection
from wsgiref.simple_server import make_server

import django
from django.core.handlers.wsgi import WSGIHandler


def until_the_parent_ends(ours: Connection, theirs: Connection) -> None:
    theirs.close()
    try:
        ours.recv()
    except EOFError:
        sys.exit(0)


def main(port: int, fork: bool) -> None:
    django.setup()
    with make_server("127.0.0.1", port, WSGIHandler()) as server:
        if fork:
            server.handle_request()  # the election begins before the fork
            ours, theirs = multiprocessing.Pipe()
            multiprocessing.get_context("fork").Process(target=until_the_parent_ends, args=(ours, theirs)).start()
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), "fork" in sys.argv)
