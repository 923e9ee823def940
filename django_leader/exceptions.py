"""What can go wrong, split by whose fault it is."""

from __future__ import annotations


class LeaderError(Exception):
    """Base of the errors of an election, except ``LeadershipLost``: see there.

    Settings of Django that cannot be used raise ``ImproperlyConfigured`` instead, and an alias that is not among them
    raises ``UnknownElection``.
    """


class ConfigError(LeaderError, ValueError):
    """The project's fault: a setting or an argument that cannot be used. Raised before anything is sent."""


class RedisUnavailable(LeaderError):
    """The server's fault: Redis cannot be reached, does not answer in time, or answers with an error."""


class OverrideMissing(LeaderError):
    """A test's fault: it calls a ``@leader_required`` command without saying who leads the command's election.

    It is no ``CommandError``, because a test that expects a ``CommandError`` would pass.
    """


class StaleToken(LeaderError):
    """A write was refused, because a later leader has written: this process is not the leader any more.

    It is an ``Exception``, unlike ``LeadershipLost``: a job that catches it and goes on does no harm, because each of
    its other fenced writes is refused, too.
    """


class NotLeader(LeaderError):
    """The caller's fault: it calls, in a process that does not lead, what only the leader may do."""


class LeadershipLost(BaseException):
    """The end of work whose process no longer leads.

    It is raised in the body of a command (``on_loss="interrupt"``), and where work asks ``Term.raise_if_lost()``.

    Like ``KeyboardInterrupt`` it is no ``Exception``, because a job that catches ``Exception`` around each of its steps
    must not go on working after its lease has ended.
    """
