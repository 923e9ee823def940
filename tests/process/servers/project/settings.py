"""The test project's settings, as the harness wants them: its server, its durations, with this package or without."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from testproject.settings import *  # noqa: F403
from testproject.settings import INSTALLED_APPS, LEADER_ELECTIONS

FOLDER = Path(os.environ["SERVERS_FOLDER"])
WITHOUT_US = os.environ.get("SERVERS_WITHOUT_US") == "1"
ROOT_URLCONF = "tests.process.servers.project.urls"
WSGI_APPLICATION = "tests.process.servers.project.wsgi.application"
STATIC_ROOT = FOLDER / "static"
INSTALLED_APPS = [
    *(app for app in INSTALLED_APPS if not WITHOUT_US or app not in ("django_leader", "testproject.jobs")),
    *filter(None, os.environ.get("SERVERS_APPS", "").split()),
]
importlib.import_module("touched")  # the file that changes, for reloaders
LEADER_ELECTIONS["default"]["HANDLE_SIGTERM"] = os.environ.get("SERVERS_SIGTERM") != "0"
LEADER_ELECTIONS["default"]["SAME_HOST_TAKEOVER"] = os.environ["SERVERS_TAKEOVER"] == "1"
