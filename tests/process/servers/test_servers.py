"""Django in the ways in which it is run: what is a candidate, what leads next, what is left behind. See ``ways``."""

from __future__ import annotations

import os

import pytest

from tests.conftest import need
from tests.process.servers.harness import missing, try_way
from tests.process.servers.ways import WAYS, Command
from tests.support.candidates import ROOT
from tests.support.servers import program

pytestmark = pytest.mark.timeout(600)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="it looks at /proc")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_way_of_running(way: Command) -> None:
    need(program("valkey") or program("redis-server"), "a Redis server")
    need(not missing(way), ", ".join(missing(way)))
    problems = try_way(way).problems
    assert not problems, "\n".join(problems)


def test_every_way_has_a_unique_name_and_known_distributions() -> None:
    """The extra must install them: a way would be skipped wherever a missing server does not fail."""
    declared = (ROOT / "pyproject.toml").read_text().lower()
    assert len({way.name for way in WAYS}) == len(WAYS)
    for way in WAYS:
        for name in (way.package, *way.needs):
            assert f'"{name.lower()}' in declared, f"{way.name}: {name}"
