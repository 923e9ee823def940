"""The small processes that are measured: ``python -m benchmarks.processes ROLE ...``. Those of the fleets: candidate.

Nothing is imported before it is needed: it would be measured, too.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable

_out = threading.Lock()


def say(**values: float) -> None:
    """One line."""
    with _out:
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()


def waiter(address: str) -> None:
    """Wait for a bare wake-up, each time that it is told to."""
    import redis

    client = redis.Redis.from_url(address, socket_timeout=60)
    say(ready=1)
    for _ in sys.stdin:
        client.blpop(["benchmark:wake"])
        say(at=time.monotonic())


def watcher() -> None:
    """Watches the process whose id it is told."""
    import select

    say(ready=1)
    for line in sys.stdin:
        fd = os.pidfd_open(int(line))
        say(ready=1)
        select.select([fd], [], [])
        say(at=time.monotonic())
        os.close(fd)


def victim() -> None:
    """Has imported what a candidate has, and is killed."""
    __import__("django_leader")
    say(ready=1)
    sys.stdin.read()


def member(role: str, address: str) -> None:
    """Run a small Django project whose cache is on Redis: ``without`` us, as a ``follower`` or as the ``leader``."""
    import resource

    import django
    from django.conf import settings

    from benchmarks.peers import HEARTBEAT, KEY, RETRY, TTL

    election = {
        "REDIS_KEY_NAME": KEY,
        "REDIS_INFO_KEY_NAME": f"{KEY}:info",
        "LOCK_TTL": TTL,
        "HEARTBEAT_INTERVAL": HEARTBEAT,
        "RETRY_INTERVAL": RETRY,
        "QUARANTINE": 0,
        "AUTOSTART": False,
    }
    settings.configure(
        SECRET_KEY="benchmark",
        USE_TZ=True,
        INSTALLED_APPS=[] if role == "without" else ["django_leader"],
        CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": address}},
        LEADER_ELECTIONS={"default": election},
    )
    django.setup()
    from django.core.cache import cache

    cache.get("benchmark")
    if role != "without":
        from django_leader import elections

        elections["default"].start()
        if role == "leader":
            assert elections["default"].wait_for_leadership(TTL)
    say(ready=1)
    for _ in sys.stdin:
        say(cpu=time.process_time(), switches=resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw)


def fresh(address: str, key: str) -> None:
    """Tells what it took from its first import until it led, in a process that has Django and redis-py already."""
    began = time.monotonic()
    import django
    import redis
    from django.conf import settings

    settings.configure(CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": address}})
    django.setup()
    __import__("django_redis.cache")
    have_redis = time.monotonic()
    from django_leader import Config, LeaderElection

    imported = time.monotonic()
    leads = threading.Event()
    times: list[float] = []
    election = LeaderElection(redis.Redis.from_url(address), Config(key, f"{key}:info", quarantine=0))

    @election.on_become_leader
    def gained() -> None:
        times.append(time.monotonic())
        leads.set()

    started = time.monotonic()
    election.start()
    leads.wait()
    say(
        redis=(have_redis - began) * 1000,
        own=(imported - have_redis) * 1000,
        start=(times[0] - started) * 1000,
        added=(times[0] - have_redis) * 1000,
        started=started,
        at=times[0],
    )


def project(how: str, address: str, key: str, *apps: str) -> None:
    """Tells what ``django.setup()`` takes with these ``apps``, in a ``command`` or a ``server``, and who connects."""
    import django
    from django.conf import settings
    from django.core.management import execute_from_command_line
    from django.core.wsgi import get_wsgi_application

    settings.configure(
        SECRET_KEY="benchmark",
        USE_TZ=True,
        STATIC_URL="static/",
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django.contrib.staticfiles",
            *apps,
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": address}},
        LEADER_ELECTIONS={
            "default": {
                "REDIS_KEY_NAME": key,
                "REDIS_INFO_KEY_NAME": f"{key}:info",
                "QUARANTINE": 0,
                "AUTOSTART": "auto" if how == "command" else True,  # no server is on the stack
            }
        },
    )
    setup, taken = django.setup, list[float]()
    connected, threads = threading.Event(), list[int]()

    def timed(**options: bool) -> None:
        began = time.perf_counter()
        setup(**options)
        taken.append((time.perf_counter() - began) * 1000)

    def heard(event: str, _: object) -> None:
        if event == "socket.connect":
            threads.append(threading.get_ident())
            connected.set()

    django.setup = timed  # type: ignore[assignment]
    if how == "command":
        execute_from_command_line(["manage.py", "migrate", "--verbosity", "0"])
    else:
        sys.addaudithook(heard)
        get_wsgi_application()
        if apps:
            connected.wait()
    say(setup=taken[0], connects=len(threads), here=threads[:1] == [threading.get_ident()])


ROLES: dict[str, Callable[..., None]] = {
    "waiter": waiter,
    "watcher": watcher,
    "victim": victim,
    "member": member,
    "fresh": fresh,
    "project": project,
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
