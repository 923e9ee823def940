"""One page: which process answers, and what it is in the election."""

from __future__ import annotations

import time

from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.process.servers.project.verdict import verdict


def index(request: HttpRequest) -> JsonResponse:
    time.sleep(float(request.GET.get("seconds", "0")))
    return JsonResponse(verdict())


urlpatterns = [path("", index)]
