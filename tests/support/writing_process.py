"""A leader that is paused between its check and its write, and then writes twice: unfenced, and fenced.

Options come as JSON in ``argv[1]``. It says what it sees in JSON, an object a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

import redis

from django_leader import Config, LeaderElection, StaleToken
from testproject.embedded import die_with_parent
from tests.support.candidate_process import say
from tests.support.servers import GENEROUS


class Pausing(redis.Redis):
    """A client of which the kernel stops the process before the first fenced write is sent."""

    paused = False

    def evalsha(self, *words: Any) -> Any:
        if not self.paused:
            self.paused = True
            say("checked")
            os.kill(os.getpid(), signal.SIGSTOP)
            self.set("unfenced", "late")
        return super().evalsha(*words)


def main() -> None:
    options = json.loads(sys.argv[1])
    port, client = options.pop("port"), Pausing(port=options.pop("target"), db=options.pop("db"))
    election = LeaderElection(redis.Redis(port=port), Config(**options))
    fenced, gained = election.fenced(client), threading.Event()
    election.on_become_leader(gained.set)  # behind the raise of the mark
    election.start()
    assert gained.wait(GENEROUS)
    term = election.term()
    assert term
    assert election.is_leader()
    try:
        fenced.set("fenced", "late")
        say("written", token=term.token)
    except StaleToken as error:
        say("refused", token=term.token, text=str(error), lost=term.lost.is_set())
    sys.stdin.readline()
    election.stop()


if __name__ == "__main__":
    die_with_parent()
    main()
