"""Servers of databases for the tests, each with data and a socket of its own in a folder, and ended by its own pid."""

from __future__ import annotations

import contextlib
import glob
import importlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from testproject.embedded import die_with_parent
from tests.support.servers import eventually

NAME = "tests"
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def found(program: str) -> str | None:
    """Return the path of a program, also where Debian keeps those of servers."""
    places = [os.environ.get("PATH", ""), "/usr/sbin", *glob.glob("/usr/lib/postgresql/*/bin")]
    return shutil.which(program, path=os.pathsep.join(places))


class DatabaseServer:
    """One server. It is reached by a socket in its folder, and by nothing else."""

    program: str
    driver: str
    engine: str
    STATUS: str
    """The statement that shows what transactions do."""
    WAITING: str
    """What it shows while one waits for a lock."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="django-leader-db-")
        # The servers refuse to run as root.
        self.owner: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self.owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str:
        """Return what of it is not installed, or nothing."""
        if not found(cls.program):
            return f"the server {cls.program}"
        try:
            importlib.import_module(cls.driver)
        except ImportError:
            return f"the driver {cls.driver}"
        return ""

    @property
    def settings(self) -> dict[str, Any]:
        """For ``DATABASES``."""
        return {"ENGINE": self.engine, "NAME": NAME, "USER": NAME, "HOST": self.folder}

    def command(self) -> list[str]:
        """Make the data, and return the command that starts the server."""
        raise NotImplementedError

    def create(self) -> None:
        """Create the database. Raise an error while the server does not answer."""
        raise NotImplementedError

    def start(self) -> DatabaseServer:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(self.command(), preexec_fn=die_with_parent, cwd="/", **self.owner, **QUIET)
        eventually(self._answers, f"{self.program} answers", every=0.02)
        return self

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, f"{self.program} has ended"
        with contextlib.suppress(Exception):
            self.create()
            return True
        return False

    def close(self) -> None:
        """End it, and delete its data."""
        if self.process:
            self.process.send_signal(signal.SIGQUIT if isinstance(self, Postgres) else signal.SIGKILL)
            self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres(DatabaseServer):
    """PostgreSQL."""

    program, driver, engine = "postgres", "psycopg", "django.db.backends.postgresql"
    STATUS, WAITING = "SELECT wait_event_type FROM pg_stat_activity", "'Lock'"

    def command(self) -> list[str]:
        """Make the data, and return the command that starts the server."""
        data = f"{self.folder}/data"
        initdb = [str(found("initdb")), "-D", data, "-U", NAME, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(initdb, check=True, cwd="/", **self.owner, **QUIET)
        options = ["listen_addresses=", "fsync=off", "max_connections=20", "shared_buffers=8MB"]
        more = [part for option in options for part in ("-c", option)]
        return [str(found("postgres")), "-D", data, "-k", self.folder, *more]

    def create(self) -> None:
        """Create the database. Raise an error while the server does not answer."""
        import psycopg

        with psycopg.connect(host=self.folder, user=NAME, dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {NAME}")


class MariaDB(DatabaseServer):
    """MariaDB, which is like MySQL. It has no privileges, and so needs no system tables."""

    program, driver, engine = "mariadbd", "pymysql", "django.db.backends.mysql"
    STATUS, WAITING = "SHOW ENGINE INNODB STATUS", "LOCK WAIT"

    @property
    def settings(self) -> dict[str, Any]:
        """For ``DATABASES``."""
        use_pymysql()
        return {**super().settings, "HOST": f"{self.folder}/socket"}

    def command(self) -> list[str]:
        """Return the command that starts the server, which makes the data."""
        options = ["--no-defaults", "--skip-networking", "--skip-grant-tables", "--skip-log-bin"]
        options += ["--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=0"]
        folder = [f"--{name}={self.folder}/{name}" for name in ("socket", "pid-file")]
        return [str(found("mariadbd")), *options, f"--datadir={self.folder}", *folder]

    def create(self) -> None:
        """Create the database. Raise an error while the server does not answer."""
        import pymysql

        with socket.socket(socket.AF_UNIX) as attempt:  # a failed one of PyMySQL leaves its socket open
            attempt.connect(f"{self.folder}/socket")
        connection = pymysql.connect(unix_socket=f"{self.folder}/socket", user=NAME)
        with connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {NAME} CHARACTER SET utf8mb4")


SERVERS: dict[str, type[DatabaseServer]] = {"postgresql": Postgres, "mariadb": MariaDB}


def use_pymysql() -> None:
    """Have Django take PyMySQL for the driver that has to be compiled."""
    import pymysql

    pymysql.install_as_MySQLdb()


def add_connection(alias: str, settings: dict[str, Any]) -> BaseDatabaseWrapper:
    """Declare a database, as ``DATABASES`` would. Return the connection of this thread."""
    connections.settings[alias] = connections.configure_settings({"default": {}, alias: settings})[alias]
    return connections[alias]
