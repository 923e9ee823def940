"""By what a project is known to another one."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import override_settings

from django_leader import elections
from django_leader.fingerprint import fingerprints
from django_leader.settings import read


def test_it_is_that_of_the_secret_key_and_does_not_contain_it() -> None:
    [mine] = fingerprints()
    assert re.fullmatch("[0-9a-f]{8}", mine)
    assert fingerprints() == (mine,)
    with override_settings(ROOT_URLCONF="another.urls"):  # of one project, web and workers
        assert fingerprints() == (mine,)
    with override_settings(SECRET_KEY="another"):
        [theirs] = fingerprints()
        assert theirs != mine
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=["tests"]):
        assert fingerprints() == (theirs, mine)


@pytest.mark.parametrize("key", ["", None, "a lone surrogate: \udcff"])
def test_without_a_key_there_is_none(key: Any) -> None:
    with override_settings(SECRET_KEY=key):
        assert fingerprints() == ()
        assert elections["default"].is_leader() is False


@override_settings(LEADER_ELECTIONS={"default": {}, "reports": {}})
def test_every_election_has_it() -> None:
    for alias in ("default", "reports", "command:nightly"):
        assert read(alias).config.projects == fingerprints()
