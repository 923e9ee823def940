"""What the package offers, which it imports when it is first used."""

from __future__ import annotations

import pytest

import django_leader


def test_the_package_has_the_names_that_it_offers_and_no_others() -> None:
    assert set(django_leader.__all__) <= set(dir(django_leader))
    assert all(getattr(django_leader, name) is not None for name in django_leader.__all__)
    with pytest.raises(AttributeError, match="'is_leadr'"):
        _ = django_leader.is_leadr  # type: ignore[attr-defined]  # without the comment, mypy has to say so, too
