"""A Celery app. What it runs, and what its beat sends, is written down."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from celery import Celery, signals

FOLDER = Path(os.environ["SERVERS_FOLDER"])

app = Celery("servers", broker=f"redis+socket://{FOLDER / 'redis.sock'}")
app.conf.update(
    task_acks_late=True,  # so that Redis shows whether one is under way
    beat_schedule={"answer": {"task": "answer", "schedule": 0.5, "options": {"queue": "of nobody"}}},
    beat_schedule_filename=str(FOLDER / "schedule"),
)


def write_down(**kwargs: Any) -> None:
    from tests.process.servers.project.verdict import verdict

    with (FOLDER / "answers").open("a") as answers:
        answers.write(json.dumps(verdict()) + "\n")


def answer_again() -> None:
    write_down()
    if not (FOLDER / "over").exists():
        answer.apply_async(countdown=0.1)


answer = app.task(answer_again, name="answer")


if "beat" in sys.argv:
    signals.before_task_publish.connect(write_down, weak=False)
else:
    signals.worker_ready.connect(lambda **kwargs: [answer.delay() for _ in range(4)], weak=False)
