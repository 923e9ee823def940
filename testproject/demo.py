"""``make demo``: three web processes elect a leader, lose it, and elect another.

Without ``--rounds`` it goes on until Ctrl-C and tells every change of leadership. With ``--rounds N`` it ends the
leader in three ways, N times each, prints how long each take-over took, and exits with 0 only if each time exactly one
other process led and a leader that was frozen beyond its lease did not lead when it woke.

All the time the leader runs a job every second. The demo tells which process has run which slots. It fails if a slot
was run twice, or was not run although nothing says why.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import redis

from testproject import embedded

ROOT = Path(__file__).resolve().parent.parent
DURATIONS = {"LOCK_TTL": "3", "HEARTBEAT_INTERVAL": "1", "RETRY_INTERVAL": "1"}
EVENTS = "{maplefile:leader:lock}:events"
LOCK = "maplefile:leader:lock"
RUNS = "{maplefile:leader:lock}:runs"
JOB = "every second"
WHY = {
    "missed": "missed, because no process led",
    "in-doubt": "in doubt, because the leader was killed in the middle",
}
"""Why a slot was not run, by its outcome in Redis."""
LONG = 30.0
USER, PASSWORD = "admin", "leader"


class Failure(Exception):
    """What the demo shows is not what it promises."""


class Grant(NamedTuple):
    """A new leader, as the history has it."""

    at: float
    name: str
    kind: str
    reason: str = ""


class Web:
    """One web process: its name, its port, and the process while there is one."""

    def __init__(self, name: str, port: int, log: Path) -> None:
        self.name, self.port, self.log = name, port, log
        self.process: subprocess.Popen[bytes] | None = None
        self.ended_at = 0.0
        """When the last process that ended did."""

    def start(self) -> None:
        """Start it, and wait until it serves. It finds the first free port from its own on, and tells it."""
        with self.log.open("ab") as log:
            self.process = process = subprocess.Popen(
                [sys.executable, "-m", "testproject.serve", str(self.port)],
                cwd=ROOT,
                env={**os.environ, "INSTANCE_ID": self.name},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=embedded.die_with_parent,
            )
        threading.Thread(target=self._note_end, args=(process,), daemon=True).start()
        assert process.stdout
        with process.stdout:
            told = process.stdout.readline()
        if not told:
            raise Failure(f"{self.name} ended before it served")
        self.port = int(told)
        wait_for(self.ask, f"{self.name} serves on port {self.port}")

    def _note_end(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self.ended_at = time.time()

    def ask(self) -> dict[str, Any] | None:
        """Return what it says of itself; None when it does not answer. Another demo may answer on its port."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5) as answer:
                said: dict[str, Any] = json.load(answer)
        except (OSError, HTTPException):
            return None
        return said if self.process and said["pid"] == self.process.pid else None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process
        self.process.send_signal(number)

    def end(self) -> None:
        """Kills it, however it is."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


class History:
    """Reads the election's history as it is written."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._last: bytes | str = "0-0"
        self.resigned_at = 0.0

    def next_grant(self, seconds: float) -> Grant | None:
        """Return the next new leader, or None when there is none for so long."""
        until = time.time() + seconds
        while (left := until - time.time()) > 0:
            found: Any = self._client.xread({EVENTS: self._last}, count=1, block=max(1, int(left * 1000)))
            for _, entries in found or []:
                for entry, values in entries:
                    self._last = entry
                    at = int(entry.split(b"-")[0]) / 1000
                    if values[b"kind"] in (b"elected", b"taken-over"):
                        said = {name.decode(): value.decode() for name, value in values.items()}
                        return Grant(at, said["holder"].rpartition(":")[0], said["kind"], said["reason"])
                    self.resigned_at = at
        return None


class Slots:
    """What became of each slot of the job, by the rows that its runs leave and by what Redis says of other slots."""

    def __init__(self, client: redis.Redis, database: Path) -> None:
        self._client, self._database = client, database
        self._told = 0
        """The last slot that was told."""

    def news(self) -> str:
        """Return what became of the slots since the last call; "" if none was run."""
        ran, skipped = self._decided()
        new = {slot: name for slot, name in ran.items() if slot > self._told}
        if not new:
            return ""
        first, self._told = min([*new, *(slot for slot in skipped if slot > self._told)]), max(ran)
        who = ", ".join(f"{name} ran {number}" for name, number in sorted(Counter(new.values()).items()))
        why = Counter(skipped[slot] for slot in skipped if slot >= first)
        return f"slots {shown(first)} to {shown(self._told)}: {who}, each once; {reasons(why)}"

    def total(self) -> str:
        """Return what became of all slots."""
        ran, skipped = self._decided()
        if not skipped:
            return f"{len(ran)} slots, each run once, none missed"
        return f"{len(ran) + len(skipped)} slots: {len(ran)} run, each once; {reasons(Counter(skipped.values()))}"

    def _decided(self) -> tuple[dict[int, str], dict[int, str]]:
        """Return who has run each slot, and why others were not run: from the first slot that was run to the last."""
        query = "SELECT scheduled_for, instance_id FROM jobs_run WHERE job = ? AND scheduled_for IS NOT NULL"
        with contextlib.closing(sqlite3.connect(self._database, timeout=LONG)) as connection:
            rows = [(seconds(slot), str(name)) for slot, name in connection.execute(query, [JOB])]
        ran = dict(rows)
        if len(ran) < len(rows):
            twice = [shown(slot) for slot, number in Counter(slot for slot, _ in rows).items() if number > 1]
            raise Failure(f"slots were run twice: {', '.join(twice)}")
        told = self._told_by_redis() if rows else []
        skipped = {}
        for slot in range(min(ran, default=0), max(ran, default=0)):
            if slot not in ran:
                skipped[slot] = next((outcome for those, outcome in told if slot in those), "")
                if not skipped[slot]:
                    raise Failure(f"the slot {shown(slot)} was not run, and nothing says why")
        return ran, skipped

    def _told_by_redis(self) -> list[tuple[range, str]]:
        """Return the outcomes of slots other than ``ok``, each with the slots that it is about."""
        entries: Any = self._client.xrange(RUNS)
        told = [values for _, values in entries if values[b"name"] == JOB.encode() and values[b"outcome"] != b"ok"]
        return [
            (
                range(
                    int(values[b"since"]) // 1000 + 1 if b"since" in values else int(values[b"slot"]) // 1000,
                    int(values[b"slot"]) // 1000 + 1,
                ),
                values[b"outcome"].decode(),
            )
            for values in told
        ]


def seconds(slot: str) -> int:
    """Return the seconds since 1970 of an instant in the database."""
    return int(datetime.fromisoformat(slot).replace(tzinfo=timezone.utc).timestamp())


def shown(slot: int) -> str:
    """Return a slot as a person reads it."""
    return time.strftime("%H:%M:%S", time.localtime(slot))


def reasons(why: Counter[str]) -> str:
    """Return how many slots were not run, and why."""
    return "; ".join(f"{number} {WHY.get(outcome, outcome)}" for outcome, number in why.items()) or "none missed"


def wait_for(condition: Callable[[], Any], what: str, seconds: float = LONG) -> Any:
    """Wait until ``condition()`` is true, and return its value."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > until:
            raise Failure(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return value


class Demo:
    """Three web processes around an embedded server, and all that must be gone afterwards."""

    def __init__(self, folder: Path, first_port: int) -> None:
        self.folder = folder
        os.environ.update(DURATIONS, TESTPROJECT_RUN=str(folder / "run"), TESTPROJECT_DB=str(folder / "db.sqlite3"))
        os.environ.pop("DJANGO_LEADER_AUTOSTART", None)
        os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.settings"
        url = os.environ.get("REDIS_URL") or embedded.url()
        self.client = redis.Redis.from_url(url, socket_timeout=LONG)
        names = [f"web-{number}" for number in (1, 2, 3)]
        self.webs = [Web(name, first_port + index, folder / f"{name}.log") for index, name in enumerate(names)]
        self.history = History(self.client)
        self.slots = Slots(self.client, folder / "db.sqlite3")

    def start(self) -> None:
        """Make the database and the log-in, and start the processes."""
        manage = [sys.executable, str(ROOT / "testproject" / "manage.py")]
        subprocess.run([*manage, "migrate", "-v0"], check=True)
        account = {"DJANGO_SUPERUSER_PASSWORD": PASSWORD, "DJANGO_SUPERUSER_EMAIL": "admin@example.com"}
        create = [*manage, "createsuperuser", "--noinput", "--username", USER, "-v0"]
        subprocess.run(create, check=True, env={**os.environ, **account})
        for web in self.webs:
            web.start()
        say("Three web processes of one Django project, and one of them leads:")
        for web in self.webs:
            print(f"          {web.name}  http://127.0.0.1:{web.port}/  pid {web.process.pid if web.process else '-'}")
        page = f"http://127.0.0.1:{self.webs[0].port}/admin/django_leader/election/"
        print(f"          admin  {page}  (log in as {USER} / {PASSWORD})")
        print(f"          logs   {self.folder}", flush=True)

    def close(self) -> None:
        """End all that was started, and wait until it is gone."""
        for web in self.webs:
            web.end()
        self.client.close()
        embedded.leave()

    def leader(self) -> Web:
        """Return the one that leads, once exactly one says so."""

        def one() -> Web | None:
            leading = [web for web in self.webs if (web.ask() or {}).get("is_leader")]
            return leading[0] if len(leading) == 1 else None

        found: Web = wait_for(one, "exactly one process says that it leads")
        return found

    def watch(self) -> None:
        """Tells every change of leadership, for ever."""
        print("\nStop, kill or freeze any of them (kill PID, kill -9 PID, kill -STOP PID) and watch. Ctrl-C ends it.\n")
        beat, last = 0.0, Grant(0.0, "", "")
        while True:
            grant = self.history.next_grant(0.2)
            if grant:
                say(f"{grant.name} leads ({grant.kind}{self._took(grant, last, beat)})")
                if last.name:
                    say(self.slots.news() or "no slot was run meanwhile")
                last = grant
            beat = self._last_beat() or beat
            for web in self.webs:
                if web.process and web.process.poll() is not None:
                    say(f"{web.name} has ended; starting it again")
                    web.start()
                    say(f"{web.name} is back, with pid {web.process.pid}")

    def _took(self, grant: Grant, last: Grant, beat: float) -> str:
        """How long nobody led: since the last leader resigned, its process ended, or it fell silent."""
        web = next((web for web in self.webs if web.name == last.name), None)
        if web and grant.reason == "died":  # the candidate may have been told of it before us
            wait_for(lambda: web.ended_at > last.at, f"{web.name} has ended")
        if grant.kind == "elected":
            since, what = self.history.resigned_at, "resigned"
        elif web and web.ended_at > last.at:
            since, what = web.ended_at, "ended"
        else:
            since, what = beat, "beat"
        return f", {max(0.0, grant.at - since) * 1000:.0f} ms after the last leader {what}" if since else ""

    def _last_beat(self) -> float | None:
        left: Any = self.client.pttl(LOCK)
        return time.time() - float(DURATIONS["LOCK_TTL"]) + left / 1000 if left > 0 else None

    def round(self, number: signal.Signals) -> float:
        """End the leader by a signal. Return the seconds until another one leads."""
        victim = self.leader()
        while self.history.next_grant(0.05):
            pass  # what came before
        hit = time.time()
        victim.signal(number)
        grant = self.history.next_grant(LONG)
        if grant is None or grant.name == victim.name:
            raise Failure(f"no other process led after {number.name} to {victim.name}")
        took = grant.at - hit
        say(f"{number.name} to {victim.name}: {grant.name} leads after {took * 1000:.0f} ms ({grant.kind})")
        if number == signal.SIGSTOP:
            victim.signal(signal.SIGCONT)
            for _ in range(50):
                said = wait_for(victim.ask, f"{victim.name} answers after it woke")
                if said["is_leader"]:
                    raise Failure(f"{victim.name} was frozen beyond its lease, and led when it woke")
        else:
            assert victim.process
            victim.process.wait(LONG)
            victim.start()
        if self.leader().name != grant.name or (another := self.history.next_grant(0.5)):
            raise Failure(f"more than one new leader after {number.name} to {victim.name}: {another}")
        return took


def say(text: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


FAULTS = {"graceful stop": signal.SIGTERM, "kill -9": signal.SIGKILL, "frozen": signal.SIGSTOP}


def rounds(demo: Demo, number: int) -> None:
    """Run the demo without a person."""
    took: dict[str, list[float]] = {name: [] for name in FAULTS}
    for _ in range(number):
        for name, what in FAULTS.items():
            took[name].append(demo.round(what))
            say(wait_for(demo.slots.news, "the new leader has run a slot"))
    ttl = float(DURATIONS["LOCK_TTL"])
    print(f"\nSeconds until another process led (the lease is {ttl:g} s)\n")
    print("  round  " + "".join(name.rjust(15) for name in FAULTS))
    for index in range(number):
        print(f"  {index + 1:5}  " + "".join(f"{times[index]:15.3f}" for times in took.values()))
    print("\nEach time exactly one other process led, and the frozen one, woken, did not.")
    print(f"The job of every second: {demo.slots.total()}.")


def main() -> int:
    """Run the demo. Return the exit status."""
    parser = argparse.ArgumentParser(description="Three web processes elect a leader, lose it and elect another.")
    parser.add_argument("--rounds", type=int, default=0, help="end the leader so often in each way, then exit")
    parser.add_argument(
        "--port", type=int, default=8701, help="the web processes listen on this port and the next, those that are free"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="django-leader-demo-"))
    demo = None
    try:
        demo = Demo(folder, options.port)
        demo.start()
        if options.rounds:
            rounds(demo, options.rounds)
        else:
            try:
                demo.watch()
            except KeyboardInterrupt:
                print(f"\nThe job of every second: {demo.slots.total()}.")
                raise
    except KeyboardInterrupt:
        print("\nThe end.")
        return 130 if options.rounds else 0
    except Failure as failure:
        print(f"\nFAILED: {failure}", file=sys.stderr)
        for log in sorted(folder.glob("web-*.log")):
            print(f"--- {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)
        return 1
    finally:
        if demo:
            demo.close()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
