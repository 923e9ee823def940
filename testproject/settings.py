"""Settings of the test project. Without ``REDIS_URL`` in the environment it uses an embedded server."""

from __future__ import annotations

import os
from pathlib import Path

from testproject import embedded

BASE_DIR = Path(__file__).resolve().parent
SECRET_KEY = "not a secret: this project only ever runs on 127.0.0.1"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
USE_TZ = True
TIME_ZONE = "UTC"
ROOT_URLCONF = "testproject.urls"
WSGI_APPLICATION = "testproject.wsgi.application"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django_leader",
    "testproject.jobs",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("TESTPROJECT_DB", BASE_DIR / "db.sqlite3"),
        "OPTIONS": {"timeout": 20},
    }
}
# One of the jobs runs every second. Slots that are missed after a crash do no harm here.
SILENCED_SYSTEM_CHECKS = ["django_leader.W020"]
CACHES = {
    "default": {
        "BACKEND": os.environ.get("CACHE_BACKEND", "django_redis.cache.RedisCache"),
        "LOCATION": os.environ.get("REDIS_URL") or embedded.url(),
    }
}
LEADER_ELECTIONS = {
    "default": {
        "CACHE": "default",
        "LOCK_TTL": float(os.environ.get("LOCK_TTL", "10")),
        "HEARTBEAT_INTERVAL": float(os.environ.get("HEARTBEAT_INTERVAL", "3")),
        "RETRY_INTERVAL": float(os.environ.get("RETRY_INTERVAL", "2")),
        "INSTANCE_ID": os.environ.get("INSTANCE_ID"),
        # The embedded server is started empty for these processes alone, so there is no lease that it could have lost.
        # Never do this with a server that outlives them.
        "QUARANTINE": float(os.environ.get("QUARANTINE", "0")),
    }
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"django_leader": {"handlers": ["console"], "level": "INFO"}},
}
