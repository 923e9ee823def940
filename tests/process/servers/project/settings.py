"""The test project's settings, as the harness wants them: its server, its durations, with this package or without."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from testproject.settings import *  # noqa: F403
from testproject.settings import LEADER_ELECTIONS

FOLDER = Path(os.environ["SERVERS_FOLDER"])
WITHOUT_US = os.environ.get("SERVERS_WITHOUT_US") == "1"
ROOT_URLCONF = "tests.process.servers.project.urls"
WSGI_APPLICATION = "tests.process.servers.project.wsgi.application"
STATIC_ROOT = FOLDER / "static"
# No admin and the like: hundreds of processes import this, and the page has no use for them.
INSTALLED_APPS = [
    *(() if WITHOUT_US else ("django_leader", "testproject.jobs")),
    "django.contrib.staticfiles",
    *os.environ.get("SERVERS_APPS", "").split(),
]
MIDDLEWARE, TEMPLATES = [], []
importlib.import_module("touched")  # the file that changes, for reloaders
WITH_JOBS = False  # there is no table for them, and the harness counts connections
LEADER_ELECTIONS["default"]["HANDLE_SIGTERM"] = os.environ.get("SERVERS_SIGTERM") != "0"
LEADER_ELECTIONS["default"]["SAME_HOST_TAKEOVER"] = os.environ["SERVERS_TAKEOVER"] == "1"
