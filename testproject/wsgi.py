"""The WSGI application, and the periodic job of the process that serves it."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
application = get_wsgi_application()

from testproject.jobs import periodic  # noqa: E402

periodic.start()
