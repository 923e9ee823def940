"""A project on greenlets with an asynchronous receiver, callback and work: prints what became of them."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import asyncio  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import AsyncIterator  # noqa: E402
from contextlib import asynccontextmanager  # noqa: E402
from typing import Any  # noqa: E402

import django  # noqa: E402
from django.conf import settings  # noqa: E402

settings.configure(
    SECRET_KEY="tests",
    INSTALLED_APPS=["django_leader"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    LEADER_ELECTIONS={"default": {"LOCAL": True, "AUTOSTART": False, "LOCK_TTL": 3, "RETRY_INTERVAL": 0.1}},
)
django.setup()

from django.db import connection  # noqa: E402

from django_leader import became_leader, elections  # noqa: E402

LIFETIME = 60.0
ran: list[str] = []
said: list[str] = []


class Note(logging.Handler):
    """Keeps what the log is told, with the errors."""

    def emit(self, record: logging.LogRecord) -> None:
        said.append(f"{record.getMessage()}: {record.exc_info and record.exc_info[1]}")


async def receive(**kwargs: Any) -> None:
    ran.append("receiver")
    await asyncio.sleep(LIFETIME)


@asynccontextmanager
async def work(token: int) -> AsyncIterator[None]:
    ran.append("work")
    yield


async def call() -> None:
    ran.append("callback")
    await asyncio.sleep(LIFETIME)


logging.getLogger("django_leader").addHandler(Note())
election = elections["default"]
became_leader.connect(receive)
election.while_leading(work)
election.while_leading(work)
election.on_become_leader(call)
election.start()
until = time.monotonic() + LIFETIME
while time.monotonic() < until and sum(event.kind == "elected" for event in election.history()) < 3 and not ran:
    time.sleep(0.02)
try:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    database = "works"
except Exception as error:
    database = repr(error)
election.stop(timeout=LIFETIME)
sys.stdout.write(json.dumps({"ran": ran, "said": said, "database": database, "running": election.running}))
