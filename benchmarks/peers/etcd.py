"""etcd's election through its HTTP gateway, with the standard library: a lease that is kept alive every HEARTBEAT."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Callable
from time import clock_gettime
from typing import Any

from benchmarks.peers import HEARTBEAT, TTL
from benchmarks.peers.contender import Contender
from django_leader.system.clock import BOOT_CLOCK, now


def encoded(text: str) -> str:
    """As the gateway wants bytes."""
    return base64.b64encode(text.encode()).decode()


class Gateway:
    """One connection to it."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address)

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """One request. Raises ``OSError`` and what is in its answer."""
        self._connection.request("POST", path, json.dumps(body).encode())
        answer: dict[str, Any] = json.loads(self._connection.getresponse().read())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


class Etcd(Contender):
    """A candidate of an etcd election, with a deadline of its own."""

    def __init__(self, address: str, gained: Callable[[], None]) -> None:
        super().__init__(gained)
        self._waiting, self._keeping = Gateway(address), Gateway(address)
        self._deadline = self._kept_until = 0.0

    def acquire(self) -> bool:
        """Blocks. The lease is kept alive from here on."""
        asked_at = now()
        self._lease = self._keeping.ask("/v3/lease/grant", TTL=int(TTL))["ID"]
        self._given_back = threading.Event()
        self._keeper = threading.Thread(target=self._keep, args=(asked_at + TTL,), daemon=True)
        self._keeper.start()
        name, value = encoded("benchmark"), encoded("me")
        answer = self._waiting.ask("/v3/election/campaign", name=name, lease=self._lease, value=value)
        self._key, self._deadline = answer["leader"], self._kept_until
        return True

    def renew(self) -> bool:
        """Do nothing: a thread of its own renews it."""
        return True

    def release(self) -> None:
        """Resigns, then gives the lease back."""
        self._deadline = 0.0
        self._waiting.ask("/v3/election/resign", leader=self._key)
        self._given_back.set()
        self._keeper.join()
        self._keeping.ask("/v3/lease/revoke", ID=self._lease)

    def _keep(self, until: float) -> None:
        self._kept_until = until
        while not self._given_back.wait(HEARTBEAT):
            asked_at = now()
            answer = self._keeping.ask("/v3/lease/keepalive", ID=self._lease)
            if int(answer["result"].get("TTL", 0)) > 0:
                self._kept_until = asked_at + TTL
                if self._leads:
                    self._deadline = self._kept_until

    def leads(self) -> bool:
        """Compare a clock, the one that counts a suspend: a lease goes on while a machine sleeps."""
        return clock_gettime(BOOT_CLOCK) < self._deadline
