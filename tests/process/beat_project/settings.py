"""The settings of the beats that the tests start. What a test wants of them is in ``BEATS`` in the environment."""

from __future__ import annotations

import json
import os
from typing import Any

WANTED: dict[str, Any] = json.loads(os.environ["BEATS"])
SECRET_KEY = "beats"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django_leader", *WANTED.get("apps", ())]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": WANTED.get("database", ":memory:"),
        "OPTIONS": {"timeout": 30},
    }
}
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": f"redis://127.0.0.1:{WANTED['port']}/0",
    }
}
LEADER_ELECTIONS = {
    "default": {
        "REDIS_KEY_NAME": "beats:lock",
        "REDIS_INFO_KEY_NAME": "beats:info",
        "LOCK_TTL": WANTED.get("ttl", 1.0),
        "HEARTBEAT_INTERVAL": WANTED.get("ttl", 1.0) / 4,
        "RETRY_INTERVAL": WANTED.get("ttl", 1.0) / 2,
    }
}
CELERY_BROKER_URL = f"redis://127.0.0.1:{WANTED.get('broker', WANTED['port'])}/1"
CELERY_BEAT_SCHEDULE = {
    name: {"task": name, "schedule": seconds} for name, seconds in WANTED.get("schedule", {"tick": 1.0}).items()
}
CELERY_RESULT_EXPIRES = None
CELERY_BROKER_CONNECTION_MAX_RETRIES = 2
globals().update(WANTED.get("settings", {}))
