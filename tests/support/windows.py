"""Run a program as on Windows, as far as this machine can: ``python -m tests.support.windows COMMAND …``.

What only POSIX has is taken away before the package is imported, and after the libraries that it stands on: they have
code of their own for Windows, which does not run here.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing.util
import os
import select
import signal
import socket
import sys
import time
from typing import Any

LACKS: dict[Any, tuple[str, ...]] = {
    time: ("clock_gettime", "clock_gettime_ns", "CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "CLOCK_REALTIME"),
    os: (
        "register_at_fork",
        "fork",
        "eventfd",
        "pidfd_open",
        "sysconf",
        "uname",
        "getuid",
        "geteuid",
        "kill",
        "setsid",
    ),
    signal: ("pthread_sigmask", "SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGQUIT", "set_wakeup_fd"),
    select: ("poll", "epoll"),
    socket: ("AF_UNIX",),
}
STANDS_ON = ("django.core.management", "django.db.backends.sqlite3.base", "django.test", "redis", "django_redis.cache")


def main(arguments: list[str]) -> None:
    _ = asyncio, multiprocessing.util
    for name in STANDS_ON:
        importlib.import_module(name)
    for module, names in LACKS.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for module_name in ("fcntl", "resource", "termios", "pwd", "grp"):
        sys.modules[module_name] = None  # type: ignore[assignment]
    sys.platform = "win32"
    from django.core.management import execute_from_command_line

    execute_from_command_line(["manage.py", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
