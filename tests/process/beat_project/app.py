"""The Celery application of the beats that the tests start."""

from __future__ import annotations

from celery import Celery

app = Celery("beats")
app.config_from_object("django.conf:settings", namespace="CELERY")
