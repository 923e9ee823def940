"""What a process says of itself; the harness compares it with what it sees from outside."""

from __future__ import annotations

import os
from typing import Any

from django.apps import apps


def verdict() -> dict[str, Any]:
    if not apps.is_installed("django_leader"):
        return {"pid": os.getpid()}
    from django_leader import elections, is_leader

    return {"pid": os.getpid(), "is_candidate": elections["default"].running, "is_leader": is_leader()}
