"""A project on greenlets with two jobs, of which one is a coroutine function: prints what became of them."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import django  # noqa: E402
from django.conf import settings  # noqa: E402

settings.configure(
    SECRET_KEY="tests",
    INSTALLED_APPS=["django_leader"],
    LEADER_ELECTIONS={"default": {"LOCAL": True, "AUTOSTART": False, "LOCK_TTL": 30, "RETRY_INTERVAL": 0.1}},
)
django.setup()

from django_leader import elections, periodic  # noqa: E402
from django_leader.job_checks import check_jobs  # noqa: E402

LIFETIME = 60.0
ran: list[str] = []
said: list[str] = []


class Note(logging.Handler):
    """Keeps what the log is told."""

    def emit(self, record: logging.LogRecord) -> None:
        said.append(f"{record.levelname} {record.getMessage()}")


@periodic(every=1, name="coroutine")
async def coroutine() -> None:
    ran.append("coroutine")


@periodic(every=1, name="plain", in_doubt="rerun")
def plain() -> None:
    ran.append("plain")


logging.getLogger("django_leader").addHandler(Note())
checks = {message.id for message in check_jobs()}
election = elections["default"]
election.start()
until = time.monotonic() + LIFETIME
while time.monotonic() < until and len(ran) < 3:
    time.sleep(0.02)
election.stop(timeout=LIFETIME)
sys.stdout.write(json.dumps({"ran": ran, "said": said, "checks": sorted(filter(None, checks))}))
