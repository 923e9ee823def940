"""What ``is_leader()`` calls in a process that is no candidate. ``startup`` sets it: it knows why the process is none.

A module of its own, because ``startup`` runs in every process of a project, and what makes elections takes longer to
import.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.apps import apps

from .conf import own_process
from .system.log import log

NOT_INSTALLED = (
    "LEADER_ELECTIONS[%r]: is_leader() is False in this process, because it is not participating: no election starts "
    "by itself in a project without 'django_leader' in INSTALLED_APPS. Add it there, or call start()."
)


def _not_installed(alias: str) -> bool:
    """Log that ``startup`` has not run, if it never will, and return whether that is so. Local, some microseconds."""
    if own_process(alias) or not apps.ready or apps.is_installed("django_leader"):
        return False
    log(logging.WARNING, NOT_INSTALLED, alias)
    return True


explain: Callable[[str], bool] = _not_installed
"""Called with the alias of the election until it returns True."""
