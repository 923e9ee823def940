"""Runs the scripts at Redis, and knows the reply to a request from any other.

NOT guaranteed here: that a request which raised was not executed. Each script documents its guarantees at its top.

- A request carries an id, which is a number, and its reply repeats the id. A reply to anything else is an error, not an
  answer. The ids grow: campaign.lua does not grant a candidacy its own lease again for a request that a later one has
  overtaken.
- A request names its script by its digest. A server that does not know the digest has executed nothing, and is then
  sent the source.
- A request on a connection that the other end has closed meanwhile is sent once more, on a new connection. If the first
  was executed, and its reply lost, the second does no harm, because it has an id of its own: a candidate that tries
  again after an error sends the same. The second is bounded by the same instant of the server's clock, and the term
  that it grants counts from before the first. Script by script, when the first was executed:

  - campaign: the second is granted as after any lost reply, with a new token, as ``reclaimed`` until the next
    heartbeat.
  - reclaim: the second finds the lease that the first has set, and extends it.
  - release: the second finds nothing to give back, changes no other lease, and at most wakes another follower.
  - post: the message arrives twice, and the receivers act on it once.
  - collect: the messages that the first has taken are lost with its reply, as they are without a second one.
  - status and history only read.

  A renewal or a poll is not sent again, because the new connection may lead to another server. reclaim or campaign,
  which check that, are sent instead. ``WAIT`` is never sent on another connection, because there it would count
  replicas that do not have the grant.

- A request is packed once, as long as its content is the same. Only its placeholders are filled each time.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import NoScriptError

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.requests import Packed
from django_leader.protocol.scripts import FLAGS, MAY_WRITE, NOT_UNDERSTOOD, Script, script

from .channel import Channel, ConnectionClosed

_numbers = itertools.count(10**11)  # so that all have the same number of digits, and a later one is higher


class Runner:
    """Runs scripts on one channel, for one thread at a time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._flags = FLAGS
        self.requests: dict[str, tuple[Any, Packed]] = {}
        """By name, the request that was packed last: the content from which it was packed, and the request."""

    def script(self, name: str) -> Script:
        """Return the script in the form that the server is known to accept. Local."""
        return script(name, self._flags if name in MAY_WRITE else "")

    def prepared(self, name: str, same: Any, packed: Callable[[], Packed]) -> Packed:
        """Return the last request of this name, if it was packed from the ``same``, or a new one from ``packed``.

        Local; raise what ``packed`` raises.
        """
        known = self.requests.get(name)
        if known is None or known[0] != same:
            known = self.requests[name] = same, packed()
        return known[1]

    def send(
        self,
        name: str,
        request: Packed,
        *values: bytes,
        wait: bytes = b"",
        until: float | None = None,
        pause: float = 0.0,
        once: bool = False,
    ) -> bytes:
        """Send a prepared request, and ``wait`` behind it. Return its reply, which is known to be its own.

        One round trip, up to two more if the server does not know the script. Raise ``RedisUnavailable``; with ``once``
        it is ``ConnectionClosed`` when the connection was closed meanwhile.
        ``until`` and ``pause``: see ``Channel.call_packed``.
        """
        if not once:
            with contextlib.suppress(ConnectionClosed):
                return self.send(name, request, *values, wait=wait, until=until, pause=pause, once=True)
        number = _number()
        command = request.filled(number, *values) + wait
        reply = self._evaluate(
            name,
            lambda: self._channel.call_packed(command, until=until, pause=pause),
            lambda: request.words_filled(number, *values),
        )
        if not isinstance(reply, bytes) or reply[: len(number) + 1] not in (number + b"\n", number + b" "):
            raise self.not_ours(name)
        return reply

    def run(self, name: str, keys: tuple[str, ...], *args: Any) -> Any:
        """Run a script that is not worth preparing. Return its reply. Cost and errors as of ``send``."""
        with contextlib.suppress(ConnectionClosed):
            return self._run(name, keys, *args)
        return self._run(name, keys, *args)

    def _run(self, name: str, keys: tuple[str, ...], *args: Any) -> Any:
        number = _number()
        words = (len(keys), *keys, number, *args)
        sha = self.script(name).sha
        reply = self._evaluate(name, lambda: self._channel.call("EVALSHA", sha, *words), lambda: words)
        try:
            first = reply.partition(b"\n")[0] if isinstance(reply, bytes) else reply[0]
        except (TypeError, IndexError):
            first = None
        if first != number:
            raise self.not_ours(name)
        return reply

    def not_ours(self, name: str) -> RedisUnavailable:
        """Return the error for a reply that cannot be that to the script, and read no more on this connection."""
        self._channel.drop()
        return RedisUnavailable(f"the reply to {name} does not belong to its request")

    def _evaluate(self, name: str, by_digest: Callable[[], Any], words: Callable[[], Sequence[Any]]) -> Any:
        try:
            return by_digest()
        except NoScriptError:
            pass
        except RedisUnavailable as error:
            self._understand(error, name)
        try:
            return self._channel.call("EVAL", self.script(name).source, *words())
        except RedisUnavailable as error:
            self._understand(error, name)
            return self._channel.call("EVAL", script(name).source, *words())

    def _understand(self, error: RedisUnavailable, name: str) -> None:
        """Do without ``FLAGS`` from now on if the server has not understood these. Otherwise raise ``error``."""
        if not self._flags or name not in MAY_WRITE or NOT_UNDERSTOOD not in str(error):
            raise error
        self._flags = ""
        self.requests.clear()


def _number() -> bytes:
    return b"%d" % next(_numbers)
