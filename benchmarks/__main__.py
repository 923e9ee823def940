"""``make bench``: the local check, the heartbeat and the hand-over, each beside its limit in the same run.

Figures of one machine at one time: the ratios mean something, the times do not carry over.
"""

from __future__ import annotations

import argparse
import platform
import sys

import redis

from benchmarks import handover, heartbeat, local_check
from testproject import embedded


def main() -> int:
    """Measures and prints. Gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="hand-overs to measure")
    options = parser.parse_args()
    url = embedded.url()
    try:
        version = redis.Redis.from_url(url).info("server")
        server = f"{version.get('server_name', 'redis')} {version.get('valkey_version', version['redis_version'])}"
        print(f"Python {platform.python_version()}, redis-py {redis.__version__}, {server}, {platform.release()}")
        local_check.main()
        heartbeat.main(url, options.rounds)
        handover.main(url, options.rounds)
    finally:
        embedded.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
