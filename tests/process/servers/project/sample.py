"""For ``manage.py test`` and for pytest-django: a test that asks the page."""

from __future__ import annotations

import time

from django.test import SimpleTestCase


class Sample(SimpleTestCase):
    def test_a_test_is_no_candidate(self) -> None:
        for _ in range(10):
            assert not self.client.get("/").json().get("is_candidate")
            time.sleep(0.05)
