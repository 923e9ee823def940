"""Django in the ways in which it is run: who takes part, who leads next, and what is left behind. See ``ways``.

The ways are tried several at a time, since they mostly wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.conftest import need
from tests.process.servers.harness import AT_A_TIME, Row, missing, try_way
from tests.process.servers.ways import WAYS, Command
from tests.support.servers import program

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Row]]]:
    """What comes out of every way that is asked for."""
    asked = [item.callspec.params.get("way") for item in request.session.items if hasattr(item, "callspec")]
    pool = ThreadPoolExecutor(AT_A_TIME)
    yield {way.name: pool.submit(try_way, way) for way in asked if isinstance(way, Command) and not missing(way)}
    pool.shutdown(cancel_futures=True)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="it looks at /proc")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_way_of_running(way: Command, rows: dict[str, Future[Row]]) -> None:
    need(program("valkey") or program("redis-server"), "a Redis server")
    need(not missing(way), ", ".join(missing(way)))
    problems = rows[way.name].result().problems
    assert not problems, "\n".join(problems)
