"""The admin, a custom admin site, and a way to log in without a form."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import admin
from django.contrib.auth import get_user_model, login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import path

from django_leader.admin import ElectionAdmin
from django_leader.models import Election

other_site = admin.AdminSite(name="other")
other_site.register(Election, ElectionAdmin)


def log_in(request: HttpRequest, name: str) -> HttpResponse:
    """Logs in the user ``name`` and goes to the page."""
    login(request, get_user_model().objects.get(username=name), "django.contrib.auth.backends.ModelBackend")
    return redirect("/admin/django_leader/election/")


def strict_content_security_policy(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Middleware: nothing inline, nothing from elsewhere."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["Content-Security-Policy"] = "default-src 'self'; script-src 'self'; style-src 'self'"
        return response

    return middleware


def no_icon(request: HttpRequest) -> HttpResponse:
    """What every browser asks for."""
    return HttpResponse(status=204)


urlpatterns = [
    path("favicon.ico", no_icon),
    path("log-in/<str:name>/", log_in),
    path("admin/", admin.site.urls),
    path("other/", other_site.urls),
]
