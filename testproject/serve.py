"""One web process on waitress: ``python -m testproject.serve 8001``."""

from __future__ import annotations

import sys

import waitress


def main(port: int) -> None:
    """Serve the test project, static files of the admin included, on 127.0.0.1 until SIGTERM."""
    from django.contrib.staticfiles.handlers import StaticFilesHandler

    from django_leader import elections
    from testproject.wsgi import application

    elections[
        "default"
    ].start()  # else the first request would start it: a program that loads the application may not serve
    waitress.serve(StaticFilesHandler(application), listen=f"127.0.0.1:{port}", threads=4, _quiet=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
