"""The admin page of the elections: no table, no inline script, nothing from elsewhere."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.timezone import localtime

from .conf import DEFAULT_ALIAS, configured
from .exceptions import RedisUnavailable
from .models import Election
from .starter import starter


@admin.register(Election)
class ElectionAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Who leads each election, and whether this process takes part. For users who may view elections."""

    def get_urls(self) -> list[Any]:
        """The page alone: the others of a ``ModelAdmin`` would look for a table."""
        page = self.admin_site.admin_view(self.changelist_view)
        return [path("", page, name="django_leader_election_changelist")]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never: elections are made in the settings."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: elections are changed in the settings."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: elections are deleted in the settings."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The page. One round trip to Redis for each election, each bounded by its operation timeout."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": "Leader elections",
            "subtitle": None,
            "opts": self.opts,
            "elections": [_describe(alias) for alias in _aliases()],
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/django_leader/elections.html", context)


def _aliases() -> list[str]:
    try:
        return list(configured())
    except ImproperlyConfigured:
        return [DEFAULT_ALIAS]  # whose description then says what is wrong


def _describe(alias: str) -> dict[str, Any]:
    # Every process imports this module, and few show the page.
    from .advice import shared_key
    from .handler import elections
    from .records import other_project

    described: dict[str, Any] = {"alias": alias, "decision": starter.decisions.get(alias)}
    try:
        election = described["election"] = elections[alias]
        described["leads_here"] = election.is_leader()
        described["status"] = status = election.status()
        if other := other_project(status.leader, election.config.projects):
            described["warning"] = shared_key(other, election.config)
        if status.leader:
            described["since"] = status.leader.started_at and localtime(status.leader.started_at)
            described["heartbeat"] = status.leader.last_heartbeat and localtime(status.leader.last_heartbeat)
    except (ImproperlyConfigured, RedisUnavailable) as error:
        described["error"] = str(error)
    return described
