"""The helpers for other projects' tests."""

from __future__ import annotations

from django_leader import elections, is_leader
from django_leader.testing import following, leading


def test_leadership_by_decree() -> None:
    assert is_leader() is False
    with leading(token=7):
        assert is_leader() is True
        assert elections["default"].fencing_token == 7
        with following():
            assert is_leader() is False
        assert is_leader() is True
    assert is_leader() is False


@leading()
def test_as_a_decorator() -> None:
    assert is_leader() is True
    assert elections["default"].lease_left > 1e6
