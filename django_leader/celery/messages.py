"""What the message of a task has: its id. And which errors mean that no message can be made."""

from __future__ import annotations

import uuid

from kombu.exceptions import SerializationError

UNUSABLE = (TypeError, ValueError, LookupError, AttributeError, SerializationError)
"""What is raised when no message can be made of an entry, so that another try would fail, too."""
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "beat.django-leader")


def task_id(space: str, name: str, slot: int) -> str:
    """Return the id of the task that is sent for a slot of an entry. ``space``: the election's lock key. Local."""
    return str(uuid.uuid5(NAMESPACE, f"{space} {slot} {name}"))
