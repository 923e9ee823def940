"""A fleet behind Sentinel: one primary, two replicas, three sentinels, and what goes wrong between them."""

from __future__ import annotations

import contextlib
import random
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from testproject.embedded import die_with_parent
from tests.support.servers import GENEROUS

from .checker import SECOND
from .fleet import Fleet
from .journal import now
from .proxy import quiet_port
from .servers import ChaosServer
from .slot import Slot

SENTINELS = 3
REPLICAS = 2
DOWN_AFTER = 700
"""Milliseconds of silence after which a sentinel takes a server for dead."""
REPLICATION = ("--masteruser", "repl", "--masterauth", "repl", "--repl-diskless-sync-delay", "0", "--repl-timeout", "5")
USERS = tuple(
    word for user in ("repl", "candidate")
    for word in ("--user", user, "on", "nopass", "allkeys", "allchannels", "allcommands")
)  # fmt: skip
"""The sentinels are the default user. So either they or the replicas can be shut out alone."""


class SentinelProcess:
    """One sentinel."""

    def __init__(self, port: int) -> None:
        self.port, self.id = port, secrets.token_hex(20)
        self.process: subprocess.Popen[bytes] | None = None
        self._client: Any = redis.Redis(port=port, socket_timeout=5, protocol=2)

    def start(self, path: str, servers: list[ChaosServer], others: list[SentinelProcess], folder: Path) -> None:
        """Starts it. It is told of everybody else: to find them out by itself takes it ten seconds."""
        primary, *replicas = servers
        known = [f"sentinel known-replica chaos 127.0.0.1 {server.port}\n" for server in replicas]
        known += [f"sentinel known-sentinel chaos 127.0.0.1 {other.port} {other.id}\n" for other in others]
        config = folder / f"sentinel-{self.port}.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\nsentinel myid {self.id}\n"
            f"sentinel monitor chaos 127.0.0.1 {primary.port} 2\n"
            f"sentinel down-after-milliseconds chaos {DOWN_AFTER}\n"
            "sentinel failover-timeout chaos 2000\nsentinel parallel-syncs chaos 2\n" + "".join(known)
        )
        with config.with_suffix(".log").open("w") as log:
            self.process = subprocess.Popen(
                [path, str(config), "--sentinel"], stdout=log, stderr=log, preexec_fn=die_with_parent
            )

    def ask(self, *command: str) -> Any:
        """One command."""
        return self._client.execute_command(*command)

    def knows(self) -> bool:
        """Whether it has found the other sentinels and the replicas."""
        with contextlib.suppress(redis.RedisError):
            others = self.ask("SENTINEL SENTINELS", "chaos")
            replicas = self.ask("SENTINEL REPLICAS", "chaos")
            return len(others) == SENTINELS - 1 and len(replicas) >= REPLICAS
        return False


class SentinelFleet(Fleet):
    """Candidates that ask Sentinel for the primary, each for itself and without a proxy."""

    def _serve(self, path: str) -> ChaosServer:
        self.sentinels: list[SentinelProcess] = []
        self._primary_before: ChaosServer | None = None
        server = ChaosServer(path, self.folder, arguments=(*USERS, *REPLICATION))
        self.servers.append(server)
        server.start()
        for _ in range(REPLICAS):
            replica = ChaosServer(path, self.folder, arguments=(*USERS, *REPLICATION))
            self.servers.append(replica)
            self.follow(replica, server.port)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self.sentinels += [SentinelProcess(quiet_port()) for _ in range(SENTINELS)]
        for sentinel in self.sentinels:
            others = [other for other in self.sentinels if other is not sentinel]
            sentinel.start(path, self.servers, others, folder)
        self.wait(lambda: all(sentinel.knows() for sentinel in self.sentinels), "the sentinels know each other")
        return server

    def _populate(self) -> None:
        for number in range(self.options.candidates):
            self._add(number, {"sentinels": [sentinel.port for sentinel in self.sentinels]}, None)

    def follow(self, server: ChaosServer, port: int | None = None) -> None:
        """Starts ``server``, as a replica of the one at ``port`` or of the primary that there is."""
        arguments = server.arguments
        server.arguments = (*arguments, "--replicaof", "127.0.0.1", str(port or self.primary.port))
        server.start()
        server.arguments = arguments

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = 4 * GENEROUS) -> Any:
        """As its parent, but less often: here a look costs several round trips."""

        def look() -> Any:
            if not (value := condition()):
                time.sleep(0.03)
            return value

        return super().wait(look, what, timeout)

    @property
    def primary(self) -> ChaosServer:
        """The one that the sentinels name."""
        answers = [sentinel.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", "chaos") for sentinel in self.sentinels]
        ports = [int(answer[1]) for answer in answers if answer]
        port = max(ports, key=ports.count)
        return next(server for server in self.servers if server.port == port)

    @property
    def replicas(self) -> list[ChaosServer]:
        """The others."""
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    def failover(self, rng: random.Random) -> None:
        """Asks a sentinel for another primary, and waits until there is one."""
        old, again_at = self.primary, 0

        def other() -> bool:
            nonlocal again_at
            if now() > again_at:
                again_at = now() + 5 * SECOND
                try:
                    rng.choice(self.sentinels).ask("SENTINEL FAILOVER", "chaos")
                except redis.ResponseError:  # none is good enough yet, or one is being promoted
                    again_at = now() + SECOND // 2
            return self.primary is not old

        self.wait(other, "another primary")

    def replaced(self, old: ChaosServer) -> None:
        """Waits until the sentinels name another primary than ``old``."""
        self.wait(lambda: self.primary is not old, "another primary")

    def fit(self) -> bool:
        """Whether the primary is the same as when this was last asked, and all replicas are in step with it.

        The sentinels may go on with a failover when everything is healed, and a replica that joins delays the election.
        """
        with contextlib.suppress(redis.RedisError):
            primary, before = self.primary, self._primary_before
            self._primary_before = primary
            if primary is not before:
                return False
            info = primary.admin(1).info("replication")
            replicas = [info.get(f"slave{number}", {}) for number in range(REPLICAS)]
            return info["role"] == "master" and all(replica.get("state") == "online" for replica in replicas)
        return False

    def repaired(self) -> None:
        """Waits until the replicas are attached to the primary: from here on the election can do its work."""
        started = now()

        def repaired() -> bool:
            if self.fit():
                return True
            if now() > started + 2 * SECOND:  # the sentinels do this, too, but after ten seconds
                port = self.primary.port
                for server in self.replicas:
                    with contextlib.suppress(redis.RedisError):
                        server.admin(1).execute_command("REPLICAOF", "127.0.0.1", port)
            return self.fit()

        self.wait(repaired, "the replicas are attached to the primary")

    def claimable(self, leader: Slot) -> bool:
        """Never for certain: the replica that joined last may have started a quarantine."""
        return False

    def settle(self) -> None:
        self.repaired()
        super().settle()

    def _close_servers(self) -> None:
        for sentinel in self.sentinels:
            if sentinel.process:
                sentinel.process.kill()
                sentinel.process.wait()
        super()._close_servers()
