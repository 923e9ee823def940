"""An async view that asks who leads."""

from __future__ import annotations

import asyncio

from django.http import HttpRequest, JsonResponse
from django.urls import path

from django_leader import elections, is_leader


async def who(request: HttpRequest) -> JsonResponse:
    asked = asyncio.create_task(elections["default"].aget_leader_id())
    await asyncio.sleep(0)
    blocked = asked.done()
    return JsonResponse({"is_leader": is_leader(), "leader": await asked, "blocked": blocked})


urlpatterns = [path("", who)]
