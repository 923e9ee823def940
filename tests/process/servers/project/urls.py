"""One page: which process answers, and what it is in the election."""

from __future__ import annotations

import os
import time
from pathlib import Path

from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.process.servers.project.verdict import verdict


def index(request: HttpRequest) -> JsonResponse:
    seconds = float(request.GET.get("seconds", "0"))
    if seconds > 1:
        (Path(os.environ["SERVERS_FOLDER"]) / f"occupied-{os.getpid()}").touch()
    time.sleep(seconds)
    return JsonResponse(verdict())


urlpatterns = [path("", index)]
