from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand

from django_leader import leader_required

body: list[Callable[[], Any]] = [lambda: time.sleep(0)]


@leader_required
class Command(BaseCommand):
    """A command that others call."""

    def handle(self, *args: Any, **options: Any) -> None:
        body[0]()
