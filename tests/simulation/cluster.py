"""One server, or a primary and its replicas, of which any may be promoted while the old one goes on unaware.

Replicas follow late or at once, as chance has it; ``WAIT`` has those follow that can. A server that becomes the
replica of another takes over its data, and the other counts one synchronisation more.
"""

from __future__ import annotations

import random

from .server import Server


class Cluster:
    """The servers. ``primary`` is the one that is named to whoever connects."""

    def __init__(self, name: str, size: int, skew: float, rng: random.Random) -> None:
        self.rng = rng
        self.nodes = [Server(f"{name}{number:x}") for number in range(size)]
        self.primary = self.nodes[0]
        for node in self.nodes[1:]:
            node.offset += skew * rng.uniform(-1, 1)
        for node in self.nodes[1:]:
            self.join(node, self.primary)

    def replicas(self, primary: Server) -> list[Server]:
        """Those that are attached."""
        return [node for node in self.nodes if node.master is primary]

    def old(self) -> list[Server]:
        """Former primaries that know nothing of the new one."""
        return [node for node in self.nodes if node.master is None and node is not self.primary and not node.down]

    def find(self) -> Server:
        """To whom a new connection goes: mostly to the right one."""
        old = self.old()
        return self.rng.choice(old) if old and self.rng.random() < 0.1 else self.primary

    def wrote(self, primary: Server) -> None:
        """Replicas follow, or do not yet."""
        for node in self.replicas(primary):
            if node.linked and self.rng.random() < 0.7:
                node.store.load(primary.store.copy())

    def wait(self, primary: Server) -> int:
        """How many replicas have all of the primary's data, as ``WAIT`` says."""
        following = [node for node in self.replicas(primary) if node.linked and not node.down]
        for node in following:
            node.store.load(primary.store.copy())
        return len(following)

    def join(self, node: Server, primary: Server, *, unnoticed: bool = False) -> None:
        """A server becomes a replica, and ends all its connections. Whose it was notices, or still counts it."""
        if node is primary or primary.master is not None:
            return
        before = node.master
        node.master, node.linked, node.down = primary, True, False
        node.lives += 1
        node.store.load(primary.store.copy())
        primary.synchronised(self._addresses(primary))
        for left in (before, node):
            if left is not None and left is not primary and not (unnoticed and left is before):
                self._orphan(left)

    def _orphan(self, primary: Server) -> None:
        """What it had of replicas, it may have no more."""
        if primary.master is not None:
            for node in self.replicas(primary):
                self.join(node, self.primary)
        else:
            primary.attached(self._addresses(primary))

    def _addresses(self, primary: Server) -> list[str]:
        return [node.name for node in self.replicas(primary)]

    def leave(self, node: Server) -> None:
        """A replica is switched off, and its primary notices."""
        before, node.master, node.down = node.master, None, True
        if before is not None:
            self._orphan(before)

    def promote(self, keep: float, to: Server | None = None) -> list[Server]:
        """Another server becomes the primary: ``to``, if it can. Gives those that are to join it.

        Each replica of the old one stays with it for now with the probability ``keep``.
        """
        choice = [node for node in self.nodes if node.master is self.primary and not node.down]
        if not choice:
            return []
        old, new = self.primary, to if to in choice else self.rng.choice(choice)
        new.master = None
        new.restarted()
        new.attached([])
        self.primary = new
        for node in self.replicas(old):
            if self.rng.random() >= keep:
                node.linked = False
        old.attached(self._addresses(old))
        return [node for node in self.nodes if node is not new]
