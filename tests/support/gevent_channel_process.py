"""A greenlet that sends one request, and children that are forked in C meanwhile: what comes of it in each."""

from __future__ import annotations

import tests.support.gevent_process as green  # isort: skip  # first, since it patches what all others import

import json
import sys
import threading

import redis
from gevent.fileobject import FileObjectThread

from django_leader.channel import Channel, connector
from tests.support.candidate_process import say

TIMEOUT = 15.0


def ask(channel: Channel, size: int) -> None:
    try:
        reply = channel.call("ECHO", "x" * size)
        say("ended", how="reply", reply=reply.decode(), connected=channel.connected)
    except BaseException as error:
        say("ended", how=type(error).__name__, connected=channel.connected)


def main() -> None:
    options = json.loads(sys.argv[1])
    client = redis.Redis(port=options["port"], db=options["db"])
    channel = Channel(connector(client.connection_pool), TIMEOUT)
    threading.Thread(target=ask, args=(channel, options["size"]), daemon=True).start()
    say("ready")
    for _ in FileObjectThread(0, "r", close=False):
        if green.fork() == 0:
            say("child")
            green.live_on()


if __name__ == "__main__":
    main()
