"""Two pages: what this process is in the election, and the admin."""

from __future__ import annotations

import os

from django.contrib import admin
from django.http import HttpRequest, JsonResponse
from django.urls import path

from django_leader import elections, is_leader
from testproject.jobs.models import Run


def index(request: HttpRequest) -> JsonResponse:
    """Return this process's own verdict; ask no Redis."""
    election = elections["default"]
    return JsonResponse(
        {
            "instance_id": election.instance_id,
            "pid": os.getpid(),
            "is_leader": is_leader(),
            "fencing_token": election.fencing_token,
            "is_candidate": election.running,
        }
    )


def runs(request: HttpRequest) -> JsonResponse:
    """Return the newest runs of the periodic job, whichever process did them."""
    return JsonResponse(
        {"runs": list(Run.objects.order_by("-at").values("job", "instance_id", "fencing_token", "at")[:50])}
    )


urlpatterns = [path("", index), path("runs/", runs), path("admin/", admin.site.urls)]
