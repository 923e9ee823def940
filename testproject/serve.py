"""One web process on waitress: ``python -m testproject.serve 8001``, or on the next port that is free.

Its first line on stdout is the port.
"""

from __future__ import annotations

import os
import socket
import sys

import waitress


def listening(port: int) -> socket.socket:
    """Return a socket that listens on the first free port of 127.0.0.1 from ``port`` on."""
    while True:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
            sock.listen()  # fails, too, if another process has bound the port at the same time
            return sock
        except OSError:
            sock.close()
            port += 1


def main(port: int) -> None:
    """Serve the test project, static files of the admin included, on 127.0.0.1 until SIGTERM."""
    from django.contrib.staticfiles.handlers import StaticFilesHandler

    from django_leader import elections
    from testproject.wsgi import application

    elections[
        "default"
    ].start()  # else the first request would start it: a program that loads the application may not serve
    sock = listening(port)
    print(sock.getsockname()[1], flush=True)
    os.dup2(2, 1)  # who has started this process reads that one line only
    waitress.serve(StaticFilesHandler(application), sockets=[sock], threads=4, _quiet=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
