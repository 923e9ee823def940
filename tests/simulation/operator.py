"""Operators, who order the leader to run a job now: no process of the election, and without a clock of their own."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

from django_leader.protocol.orders import Look, Order, give, look
from django_leader.protocol.template import Request

from . import protocol
from .store import RedisError

if TYPE_CHECKING:
    from .kinds import Fault
    from .world import World


class Operators:
    """All operators of one episode."""

    def __init__(self, world: World) -> None:
        self.world, self._numbers = world, itertools.count(1)

    def orders(self, fault: Fault) -> None:
        """Some of them give orders."""
        world, rng = self.world, random.Random(f"order {self.world.setup.seed} {fault}")
        name = world.setup.jobs[fault.who % len(world.setup.jobs)].name
        for _ in range(rng.choice([1, 2, 5])):
            world.after(rng.random() * world.timing.ttl, self._order, name, rng)

    def _order(self, name: str, rng: random.Random) -> None:
        """One of them looks who leads, gives it an order, perhaps twice, and withdraws it later."""
        world, ttl = self.world, self.world.timing.ttl
        order = Order(f"o{world.number()}", name, "an operator")
        seen: Look | None = self._ask(look(protocol.CONFIG.keys, order.order_id))
        if seen is None or not seen.holder:
            world.ledger.counts["orders to nobody"] += 1
            return
        not_after = seen.at + rng.choice([0.1, 0.3, 1.0, 3.0]) * ttl
        world.ledger.orders(order, seen.token, not_after)
        request = give(protocol.CONFIG, order, seen, not_after)
        slowly = rng.choice([0.001, 0.1, 1.0]) * ttl
        for _ in range(rng.choice([1, 1, 2])):
            world.after(rng.random() * slowly, self._ask, request)
        if rng.random() < 0.5:
            world.after(rng.random() * ttl, self._withdraw, order)

    def _withdraw(self, order: Order) -> None:
        seen: Look | None = self._ask(look(protocol.CONFIG.keys, order.order_id, withdraw=True))
        if seen and seen.state == "withdrawn":
            self.world.ledger.withdraws(order)

    def _ask(self, request: Request) -> Any:
        """Return the answer; None if there is none."""
        world = self.world
        server = world.cluster.find()
        if server.down or server.master or server.hung_until > world.now:
            return None
        count, *words = request.words(b"%d" % next(self._numbers))
        keys, args = tuple(words[: int(count)]), tuple(words[int(count) :])
        name = request.template.name
        try:
            reply = server.eval(world.now, world.rules.scripts[name], keys, args)
        except RedisError:
            return None
        world.note(f"server {server.name}, to an operator's {name} of {keys[1]!r}: {reply}")
        world.wrote(server, keys[2:])
        return request.read(reply)
