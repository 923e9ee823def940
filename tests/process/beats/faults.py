"""What is done to beats, their broker and their clocks, at random instants."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from typing import NamedTuple

from tests.support.servers import GENEROUS, eventually

from .fleet import Beat, Fleet

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGSTOP": signal.SIGSTOP}
ENDS = ["SIGKILL", "SIGTERM"]
BROKER = ["broker killed for 3 s", "broker frozen for 3 s"]
AND_ENDS = ", leader ends"
AWAY = 3.0
"""Seconds."""
CLOCKS = {"ahead": 30, "behind": -30}
"""Seconds by which the clock of one beat is wrong."""
HAND_OVERS = ["to a clock 30 s", "from a clock 30 s"]
KINDS = [*SIGNALS, *SIGNALS, *BROKER, *CLOCKS]
"""What a run draws from."""
FAULTS = [
    *SIGNALS,
    *(f"{kind}{more}" for kind in BROKER for more in ("", AND_ENDS)),
    *(f"{name} {where}" for where in CLOCKS for name in HAND_OVERS),
]
"""What a run prints."""


class Fault(NamedTuple):
    """One fault, and how matters stood before it."""

    name: str
    at: int
    """Milliseconds on the clock of this host."""
    not_before: int
    """As ``at``: a message that comes earlier was sent before the fault."""
    messages: int
    """How many messages the broker had."""
    token: int
    """Of the term that it hit."""
    handed_over: bool
    """Whether it made another process lead."""


def now() -> int:
    """Return the milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def wait_for_instant(fleet: Fleet, chance: random.Random) -> None:
    """Wait until an instant at random; in half of the cases until the leader is about to send."""
    if chance.random() < 0.5 and (last := fleet.record().get("last")):
        due = int(last) / 1000 + 1.0
        time.sleep(min(1.5, max(0.0, due + chance.uniform(-0.002, 0.012) - time.time())))
    else:
        time.sleep(chance.uniform(0.0, 1.5))


def has_sent(fleet: Fleet, since: int, token: int = 0) -> None:
    """Wait until a message was sent after the instant ``since``, in a term after that with ``token``."""

    def sent() -> bool:
        return any(run.outcome == "ok" and run.token > token for run in fleet.runs(since))

    eventually(sent, f"one sends: {[beat.said()[-2000:] for beat in fleet.beats[-2:]]}", every=0.05)


def hit(beat: Beat, how: str) -> None:
    """Send a signal to a beat, which may have ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        beat.process.send_signal(SIGNALS[how])


def replace(fleet: Fleet, leader: Beat, token: int, how: str) -> None:
    """Wait until another beat leads, and start one for the leader that has ended. A frozen one goes on."""
    fleet.leads(but=token)
    if how == "SIGSTOP":
        time.sleep(random.uniform(0.0, 0.5))
        leader.process.send_signal(signal.SIGCONT)
    else:
        leader.process.wait(GENEROUS)
        fleet.waits(fleet.start())


def hand_over(fleet: Fleet, how: str, chance: random.Random) -> list[Fault]:
    """Harm the leader by a signal, and wait for the next one."""
    leader, token = fleet.leads(), fleet.token()
    wait_for_instant(fleet, chance)
    messages, at = len(fleet.messages()), now()
    hit(leader, how)
    replace(fleet, leader, token, how)
    return [Fault(how, at, at, messages, token, True)]


def without_broker(fleet: Fleet, kind: str, chance: random.Random) -> list[Fault]:
    """Take the broker away for three seconds, and wait for a message. In half of the cases end the leader meanwhile.

    What the broker has confirmed it keeps, because it has written it to its file.
    """
    broker, killed, how = fleet.broker_server, kind.startswith("broker killed"), chance.choice([*ENDS, "", ""])
    leader, token = fleet.leads(), fleet.token()
    wait_for_instant(fleet, chance)
    messages, at, until = len(fleet.messages()), now(), time.monotonic() + AWAY
    if killed:
        broker.stop()
    else:
        broker.freeze()
    if how:
        time.sleep(chance.uniform(0.0, AWAY / 2))
        hit(leader, how)
    time.sleep(max(0.0, until - time.monotonic()))
    back = now()
    if killed:
        broker.start()
    else:
        broker.thaw()
    if how:
        replace(fleet, leader, token, how)
    has_sent(fleet, back)
    return [Fault(f"{kind}{AND_ENDS if how else ''}", at, back, messages, token, fleet.token() != token)]


def with_clocks_apart(fleet: Fleet, where: str, chance: random.Random) -> list[Fault]:
    """Hand over to a beat whose clock is 30 seconds wrong, and back to one whose clock is right."""
    leader = fleet.leads()
    for follower in fleet.beats:
        if follower is not leader and follower.process.poll() is None:
            follower.process.send_signal(signal.SIGTERM)
            follower.process.wait(GENEROUS)
    fleet.waits(fleet.start(CLOCKS[where]))
    found = []
    for name in HAND_OVERS:
        leader, token = fleet.leads(), fleet.token()
        wait_for_instant(fleet, chance)
        messages, at = len(fleet.messages()), now()
        how = chance.choice(ENDS)
        hit(leader, how)
        replace(fleet, leader, token, how)
        has_sent(fleet, at, token)
        found.append(Fault(f"{name} {where}", at, at, messages, token, True))
    return found


def inject(fleet: Fleet, kind: str, chance: random.Random) -> list[Fault]:
    """Do what ``KINDS`` calls so. Return what was done: one fault, or two."""
    if kind in SIGNALS:
        return hand_over(fleet, kind, chance)
    return without_broker(fleet, kind, chance) if kind in BROKER else with_clocks_apart(fleet, kind, chance)
