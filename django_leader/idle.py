"""What ``is_leader()`` calls in a process that is no candidate. ``startup`` sets it: it knows why the process is none.

A module of its own, because ``startup`` runs in every process of a project, and what makes elections takes longer to
import.
"""

from __future__ import annotations

from collections.abc import Callable

explain: Callable[[str], bool] = lambda alias: False  # noqa: E731
"""Called with the alias of the election until it returns True."""
