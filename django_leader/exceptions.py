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


class LeadershipLost(BaseException):
    """The interruption of a command's body when its process no longer leads (``on_loss="interrupt"``).

    Like ``KeyboardInterrupt`` it is no ``Exception``, because a job that catches ``Exception`` around each of its steps
    must not go on working after its lease has ended.
    """
