"""The admin page of the elections: no table, no inline script, nothing from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.timezone import localtime
from django.utils.translation import pgettext, pgettext_lazy

from .conf import DEFAULT_ALIAS, configured
from .models import Election
from .startup.starter import starter

if TYPE_CHECKING:
    from .report import Report

MOST_SHOWN = 50
"""Elections on the page, at most."""
STARTS = {
    "now": pgettext_lazy("leader election", "starts now: %(why)s"),
    "in each worker": pgettext_lazy("leader election", "starts in each worker: %(why)s"),
    "at the first request": pgettext_lazy("leader election", "starts at the first request: %(why)s"),
    "never": pgettext_lazy("leader election", "starts never: %(why)s"),
}


@admin.register(Election)
class ElectionAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Who leads each election, and whether this process is a candidate. For users who may view elections."""

    def get_urls(self) -> list[Any]:
        """Return the page alone, because the other pages of a ``ModelAdmin`` would look for a table."""
        page = self.admin_site.admin_view(self.changelist_view)
        return [path("", page, name="django_leader_election_changelist")]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: elections are made in the settings."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: elections are changed in the settings."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: elections are deleted in the settings."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Return the page. One round trip to Redis for each election, all at a time: see ``report.reports``."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": pgettext("leader election", "Leader elections"),
            "subtitle": None,
            "opts": self.opts,
            **_elections(_aliases()),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/django_leader/elections.html", context)


def _aliases() -> list[str]:
    try:
        return list(configured())
    except ImproperlyConfigured:
        return [DEFAULT_ALIAS]  # its description then says what is wrong


def _elections(aliases: list[str]) -> dict[str, Any]:
    from .report import reports  # every process imports this module, and few show the page

    described = [_describe(report) for report in reports(aliases[:MOST_SHOWN])]
    return {"elections": described, "more": max(0, len(aliases) - MOST_SHOWN)}


def _describe(report: Report) -> dict[str, Any]:
    from .report import translated

    described = {name: getattr(report, name) for name in ("alias", "election", "status", "problem")}
    state = report.this_process
    described |= {"leads": state == "leads", "this_process": translated(state), "warning": translated(report.warning)}
    if decision := starter.decisions.get(report.alias):
        described["decision"] = STARTS[decision.start] % {"why": translated(decision.why)}
    if report.status and (leader := report.status.leader):
        described["since"] = leader.started_at and localtime(leader.started_at)
        described["heartbeat"] = leader.last_heartbeat and localtime(leader.last_heartbeat)
    return described
