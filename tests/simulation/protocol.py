"""The protocol as the simulated candidates use it. A planted bug is a changed part of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from django_leader.protocol import machine, scripts
from django_leader.protocol.config import Config, Timing, ValidConfig
from django_leader.protocol.jobs import JobSession
from django_leader.protocol.session import Session
from django_leader.protocol.slots import slot_keys

from .process import Process, identity

CONFIG = Config(instance_id="operator", hostname="h").validate()
KEYS = tuple(Config().keys)
LOCK, _, STATE, _, _, WAKE = (key.encode() for key in KEYS)
SLOTS, RUNS = (key.encode() for key in slot_keys(Config().keys))
NAMES = ("campaign", "poll", "renew", "reclaim", "release", "status", "post", "collect", "claim", "finish")
OF_ORDERS = ("take", "order", "look")


def sources() -> dict[str, str]:
    """The scripts as they are."""
    return {name: scripts.script(name, scripts.FLAGS).source for name in (*NAMES, *OF_ORDERS)}


@dataclass(frozen=True)
class Rules:
    """The machine, the session, the scripts, and what the process around them takes care of."""

    step: Callable[[machine.State, machine.AnyEvent, float, Timing], machine.State] = machine.step
    plan: Callable[[machine.State, float], machine.Plan] = machine.plan
    session: type[Session] = Session
    jobs: type[JobSession] = JobSession
    own_term: bool = True
    """Whether a run starts only while its own term stands."""
    scripts: dict[str, str] = field(default_factory=sources)
    config: Callable[[ValidConfig], ValidConfig] = lambda config: config
    fork_guard: bool = True
    identity: Callable[[Process], str] = identity
    dead: Callable[[Process], bool] = lambda process: process.dead
    seen: bool = True
    """Whether only the death of a process counts that was seen on the same machine."""
