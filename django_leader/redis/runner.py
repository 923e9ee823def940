"""Sends the requests of a candidate, and knows the reply to a request from any other.

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
  - finish: the second finds the same end recorded, or adds a second entry to the stream.
  - order: the second finds the order, and changes nothing.
  - look: the second finds withdrawn what the first has withdrawn.
  - status, history, jobs and INFO only read.

  A claim is not sent a second time here, because the first could still be executed, behind a later claim (J7 in
  ``slots``). ``jobs`` sends it again when the first is too old. The same is true of take and once.

  A renewal or a poll is sent only on a connection that is open already, and the session chooses which, because a new
  one may lead to another server. reclaim or campaign, which check that, are sent instead. ``WAIT`` is never sent on
  another connection, because there it would count replicas that do not have the grant.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

from redis.exceptions import NoScriptError

from django_leader.exceptions import RedisUnavailable
from django_leader.protocol.scripts import FLAGS, NOT_UNDERSTOOD, WITH_FLAGS, Script, script
from django_leader.protocol.template import Request, garbled

from .channel import Channel, ConnectionClosed

_numbers = itertools.count(10**11)  # so that all have the same number of digits, and a later one is higher


class Runner:
    """Sends requests on one channel, for one thread at a time."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._flags = FLAGS

    def send(self, request: Request, wait: Request | None = None, until: float = 0.0) -> Any:
        """Send a request, and behind it a ``wait`` until the instant ``until``. Return its reply.

        The reply to a script is known to be its own. One round trip, up to two more if the server does not know the
        script. A ``wait`` and a script that the server does not know do not go together: nothing can be sent behind the
        wait. Raise ``RedisUnavailable``; it is ``ConnectionClosed`` if the connection was closed meanwhile, and the
        request may not be sent on another.
        """
        template = request.template
        if template.name == "WAIT":
            return self.channel.call(request.packed(), same_connection=True)
        if not (template.once or template.single):
            with contextlib.suppress(ConnectionClosed):
                return self._send(request)
        return self._send(request, wait, until)

    def ask(self, request: Request) -> Any:
        """Send a request as ``send`` does. Return what its reply means."""
        try:
            return request.read(self.send(request))
        except RedisUnavailable:
            self.channel.drop()  # it may be a garbled reply
            raise

    def _send(self, request: Request, wait: Request | None = None, until: float = 0.0) -> Any:
        name = request.template.name
        if not request.template.is_script:
            return self.channel.call(request.packed())
        request_id = b"%d" % next(_numbers)
        reply = self._evaluate(request, request_id, wait, until)
        first = reply[0] if isinstance(reply, list) and reply else reply
        if not isinstance(first, bytes) or first[:12] != request_id or first[12:13] not in (b"", b"\n", b" "):
            self.channel.drop()
            raise garbled(name)
        return reply

    def _evaluate(self, request: Request, request_id: bytes, wait: Request | None, until: float) -> Any:
        name, pause, same = request.template.name, request.template.pause, request.template.once
        digest = request.packed("EVALSHA", self._script(name).sha, request_id=request_id)
        try:
            return self.channel.call(digest, wait=wait, until=until, pause=pause, same_connection=same)
        except NoScriptError:
            pass
        except RedisUnavailable as error:
            self._understand(error, name)
        source = request.packed("EVAL", self._script(name).source, request_id=request_id)
        try:
            return self.channel.call(source, same_connection=same)
        except RedisUnavailable as error:
            self._understand(error, name)
            source = request.packed("EVAL", script(name).source, request_id=request_id)
            return self.channel.call(source, same_connection=same)

    def _script(self, name: str) -> Script:
        """Return the script in the form that the server is known to accept."""
        return script(name, self._flags if name in WITH_FLAGS else "")

    def _understand(self, error: RedisUnavailable, name: str) -> None:
        """Do without ``FLAGS`` from now on if the server has not understood these. Otherwise raise ``error``."""
        if not self._flags or name not in WITH_FLAGS or NOT_UNDERSTOOD not in str(error):
            raise error
        self._flags = ""
