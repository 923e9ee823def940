"""The log line that says why ``is_leader()`` is False in a process that is no candidate. It is written once.

Without it ``is_leader()`` would be False in silence, for ever: in a consumer of a task queue, a child of Celery's pool,
a script. Nothing is logged in tests, where a test wants this answer, or while the election is about to start.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Container
from typing import NamedTuple

from django_leader.system.log import log

from .autostart import AT_REQUEST, OPTED_OUT, TEST_RUN, VARIABLE, Decision, Seen
from .servers import expects_requests

HOW_TO_START = f"To make it a candidate, set {VARIABLE}=1 in its environment, or call start()."
ASK_WHO = "To ask which process leads, call get_leader_id()."


class Situation(NamedTuple):
    """What is known of an election in this process when it is asked."""

    decision: Decision
    seen: Seen
    started: int | None
    """The process in which the election was started, if it was."""
    setting_up: bool
    """Whether ``django.setup()`` has not ended."""


def explain(situation: Situation, pid: int, modules: Container[str]) -> tuple[int, str] | None:
    """Return why the process ``pid`` is no candidate and will be none, with the level of the log. Pure.

    An empty text means that there is nothing to log, now or later. None means that the process may still be a
    candidate.
    """
    decision, seen, started, setting_up = situation
    forked = started not in (None, pid)
    if decision.why == TEST_RUN or decision.why.startswith("this is the reloader"):
        return logging.NOTSET, ""
    if setting_up:
        return None
    if seen.unsupported:
        return logging.WARNING, f"{seen.unsupported}. {ASK_WHO}"
    if decision.start == "never":
        level = logging.INFO if decision.why in OPTED_OUT else logging.WARNING
        return level, f"{decision.why}. {HOW_TO_START} {ASK_WHO}"
    if decision.start == "now" and forked:
        return logging.WARNING, f"it is a child of process {started}, which is the candidate. {ASK_WHO}"
    if decision.start == AT_REQUEST and not seen.loaded and not expects_requests(modules):
        return logging.WARNING, f"{decision.why}. {HOW_TO_START} {ASK_WHO}"
    return None


situation_of: Callable[[str], Situation | None] = lambda alias: None  # noqa: E731
"""``starter`` sets it. None: nothing is known of this election, or it is that of a command."""


def asked(alias: str) -> bool:
    """Log what there is to say about ``alias``, and return whether that is final. Local, some microseconds."""
    situation = situation_of(alias)
    explained = situation and explain(situation, os.getpid(), sys.modules)
    if not explained:
        return False
    level, why = explained
    if why:
        text = "LEADER_ELECTIONS[%r]: is_leader() is False in this process, because it is not participating: %s"
        log(level, text, alias, why)
    return True
