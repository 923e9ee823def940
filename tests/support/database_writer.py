"""A leader that is frozen between its check and its writes: it stops itself there, and goes on when it is continued."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import django
import redis
from django.conf import settings

from django_leader.protocol.config import Config
from django_leader.runtime.election import LeaderElection
from tests.support.candidate_process import say
from tests.support.databases import use_pymysql


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    port, database = options.pop("port"), options.pop("database")
    if database["ENGINE"].endswith("mysql"):
        use_pymysql()
    settings.configure(DATABASES={"default": database}, INSTALLED_APPS=["tests.databases"], USE_TZ=True)
    django.setup()
    election = LeaderElection(redis.Redis(port=port), Config(**options))
    election.start()
    assert election.wait_for_leadership(40)
    say("gain", token=election.fencing_token)
    sys.stdin.readline()
    write(election)
    sys.stdin.readline()


def write(election: LeaderElection) -> None:
    from django_leader import StaleToken, fenced_update
    from tests.databases.models import Report

    token = election.fencing_token
    fenced, unfenced, instance = (Report.objects.filter(name=name) for name in ("fenced", "unfenced", "instance"))
    read = instance.get()
    if election.is_leader() and token is not None:
        os.kill(os.getpid(), signal.SIGSTOP)
        written = fenced_update(fenced, token=token, text="late")
        overwritten = unfenced.update(text="late", fencing_token=token)
        try:
            read.fenced_save(token=token)
            refused = ""
        except StaleToken as error:
            refused = str(error)
        say("written", fenced=written, unfenced=overwritten, refused=refused, leads=election.is_leader())


if __name__ == "__main__":
    main()
