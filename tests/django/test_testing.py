"""The helpers for other projects' tests."""

from __future__ import annotations

from io import StringIO

from django.core.management import call_command
from django.test import override_settings

from django_leader import elections, is_leader
from django_leader.testing import following, leading
from tests.commands.management.commands import guarded


def test_leadership_by_decree() -> None:
    assert is_leader() is False
    with leading(token=7):
        assert is_leader() is True
        assert elections["default"].fencing_token == 7
        with following():
            assert is_leader() is False
        assert is_leader() is True
    assert is_leader() is False


@override_settings(CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}})
def test_no_redis_is_needed() -> None:
    with leading():
        assert is_leader() is True
        elections["default"].start()
        assert not elections["default"].running
    assert is_leader() is False


def test_a_guarded_command_goes_by_the_decree() -> None:
    guarded.runs.clear()
    with leading("command:guarded"):
        assert call_command("guarded", stdout=StringIO()) == "done"
    err = StringIO()
    with following("command:guarded"):
        assert call_command("guarded", stderr=err, no_color=True) is None
    assert err.getvalue() == "Not run: this test says so\n"
    assert len(guarded.runs) == 1


@leading()
def test_as_a_decorator() -> None:
    assert is_leader() is True
    assert elections["default"].lease_left > 1e6
