from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from django_leader import leader_required
from tests.commands.management.commands.guarded_class import body


@leader_required(election="default", wait=None, on_loss="continue")
class Command(BaseCommand):
    """A hot standby in an election that is named."""

    def handle(self, *args: Any, **options: Any) -> None:
        body[0]()
