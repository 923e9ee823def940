"""The session with invented replies: which request leaves next, and what a reply means for the machine."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from django_leader.protocol import machine
from django_leader.protocol.config import Config, ValidConfig
from django_leader.protocol.errands import MAX_ERRANDS
from django_leader.protocol.hold import Clocks
from django_leader.protocol.orders import Order
from django_leader.protocol.records import Answer
from django_leader.protocol.session import WAITING_FOLLOWERS, Leave, Send, Session, Wait
from django_leader.protocol.template import GarbledReply, Request

ME, OTHER = "me:0123456789abcdef", "other:0123456789abcdef"
CONFIG = Config(instance_id="me", hostname="h").validate()  # 10 s lease, 3 s heartbeat, 2 s retry
CAREFUL = Config(instance_id="me", hostname="h", min_replicas=2).validate()
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
BOOT = "37206924-49b4-42d0-a925-88f5ef7b5d09"


class Driver:
    """A session, the state that it shares, and an observer that notes what it is told."""

    def __init__(self, config: ValidConfig = CONFIG) -> None:
        self.config, self.now, self.drawn = config, 100.0, 0.0
        self.state = machine.State()
        self.events, self.seen = list[machine.AnyEvent](), list[tuple[str, Any]]()
        self.dead: tuple[str, int] | None = None
        self.session = Session(
            self, ME, config, 7, self,
            random=lambda: self.drawn, wall=lambda: NOW, clocks=lambda: Clocks(BOOT, self.now, 1e9 + self.now),
            follow=lambda answer, asked_at: self.dead,
        )  # fmt: skip

    def apply(self, event: machine.AnyEvent) -> None:
        self.events.append(event)
        self.state = machine.step(self.state, event, self.now, self.config.timing)

    def answered(self, answer: Answer) -> None:
        self.seen.append(("answered", answer.verdict))

    def failed(self, error: BaseException | str) -> None:
        self.seen.append(("failed", error))

    def duplicate(self, other: str) -> None:
        self.seen.append(("duplicate", other))

    def project(self, other: str) -> None:
        self.seen.append(("project", other))

    def ordered(self, order: Order) -> None:
        self.seen.append(("ordered", order))

    def server(self, info: dict[str, str]) -> None:
        self.seen.append(("server", info))

    def next(self, *, connection: object = 1) -> Send | Wait | Leave:
        """Whatever it says, without the questions for the server's configuration."""
        todo = self.session.next(self.now, connection)
        while isinstance(todo, Send) and todo.request.template.name == "INFO":
            self.session.reply(todo.request, b"# Memory\r\nmaxmemory:0\r\n", self.now, 1)
            todo = self.session.next(self.now, connection)
        return todo

    def asks(self, name: str, *, connection: object = 1) -> Request:
        """The request that it sends now."""
        todo = self.next(connection=connection)
        assert isinstance(todo, Send), todo
        assert todo.request.template.name == name
        return todo.request

    def waits(self, *, connection: object = 1) -> Wait:
        todo = self.next(connection=connection)
        assert isinstance(todo, Wait), todo
        return todo

    def reply(self, request: Request, reply: Any) -> None:
        self.session.reply(request, reply, self.now, 1)

    def fails(self, request: Request | None, error: str = "", **how: bool) -> bool:
        """Have a request fail. Return whether the machine is told of a failure of Redis."""
        before = len(self.events)
        self.session.failed(request, error, **how)
        return any(isinstance(event, machine.Failed) for event in self.events[before:])

    def held(self, request: Request, **also: Any) -> None:
        self.reply(request, reply("held", OTHER, **also))

    def lead(self) -> None:
        """Be granted the lease."""
        self.reply(self.asks("campaign"), reply("granted", ME))
        assert self.state.term

    def stop(self, delay: float = 0.0) -> None:
        """Stop, and have the loss callbacks return."""
        self.apply(machine.Stop(delay))
        if self.state.ended:
            self.apply(machine.Delivered(self.state.ended.term.token))


def reply(
    verdict: str,
    holder: str,
    *,
    left: int = 10_000,
    candidates: int = 3,
    at: int = 1_000_000,
    version: str = "lease:7:1:1",
    duplicate: str = "",
    token: int = 7,
) -> bytes:
    words = ("1", verdict, token, left, candidates, at, version, 10_000, at, duplicate, "", holder)
    return "\n".join(map(str, words)).encode()


def words(request: Request) -> list[bytes]:
    """The arguments of a script, from its request id on."""
    count, *rest = request.words(b"1")
    return rest[int(count) :]


def test_a_candidate_campaigns_then_polls_then_waits() -> None:
    driver = Driver()
    driver.held(driver.asks("campaign"))
    wait = driver.waits()
    assert wait.at_redis
    assert wait.until == driver.state.next_at
    driver.now = wait.until
    driver.held(driver.asks("poll"))


@pytest.mark.parametrize("cause", ["no connection", "another connection", "unsure", "closed", "older state"])
def test_a_campaign_takes_the_place_of_a_poll_that_cannot_tell(cause: str) -> None:
    driver = Driver()
    driver.held(driver.asks("campaign"))
    driver.now = driver.state.next_at
    if "connection" in cause:
        driver.asks("campaign", connection=2 if cause == "another connection" else None)
        return
    request = driver.asks("poll")
    if cause == "unsure":
        driver.reply(request, b"1\nunsure")
    elif cause == "closed":
        assert driver.fails(request, closed=True) is False, "nothing is known to be wrong with Redis"
    else:
        driver.held(request, token=6)
    driver.asks("campaign")


@pytest.mark.parametrize("cause", ["no connection", "another connection", "unsure", "closed", "another process"])
def test_a_reclaim_takes_the_place_of_a_renewal_that_cannot_tell(cause: str) -> None:
    driver = Driver()
    driver.lead()
    driver.now = driver.state.next_at
    if cause == "another process":
        driver.session.process = "me, since the clock was set"
    elif "connection" not in cause:
        request = driver.asks("renew")
        if cause == "unsure":
            driver.reply(request, b"1 unsure   ")
        else:
            assert driver.fails(request, closed=True) is False
    request = driver.asks("reclaim", connection={"no connection": None, "another connection": 2}.get(cause, 1))
    driver.reply(request, reply("renewed", ME))
    driver.now = driver.state.next_at
    driver.asks("renew")


def test_an_errand_on_a_new_connection_does_not_make_it_checked() -> None:
    """It does not tell which server answers: a renewal on that connection could be one on another server."""
    driver = Driver()
    driver.lead()
    errand = driver.session.next(driver.now, None)
    assert isinstance(errand, Send)
    assert errand.request.template.name == "INFO"
    driver.session.reply(errand.request, b"# Memory\r\nmaxmemory:0\r\n", driver.now, 2)
    driver.now = driver.state.next_at
    request = driver.asks("reclaim", connection=2)
    driver.session.reply(request, reply("renewed", ME), driver.now, 2)
    driver.now = driver.state.next_at
    driver.asks("renew", connection=2)


def test_a_leader_that_is_due_sends_one_lean_renewal() -> None:
    driver = Driver()
    driver.lead()
    assert driver.waits() == Wait(driver.state.next_at)
    driver.now = driver.state.next_at
    driver.reply(driver.asks("renew"), b"1 renewed 1000003 lease:7:2:2 0")
    assert driver.state.next_at == driver.now + 3
    driver.waits()


@pytest.mark.parametrize(("replicas", "leads"), [(1, False), (2, True), (3, True), (None, False)])
def test_s13_a_grant_counts_when_enough_replicas_have_it(replicas: int | None, leads: bool) -> None:
    driver = Driver(CAREFUL)
    driver.reply(driver.asks("campaign"), reply("granted", ME))
    assert driver.state == machine.State(), "the machine is not told before"
    confirm = driver.asks("WAIT")
    if replicas is None:
        assert driver.fails(confirm) is True
    else:
        driver.reply(confirm, replicas)
    assert (driver.state.phase == "pending") is leads
    assert (driver.state.failures > 0) is not leads
    if replicas == 1:
        assert driver.seen == [("failed", "1 of 2 replicas (MIN_REPLICAS) have confirmed the lease")]


def test_s13_after_a_stop_a_grant_is_confirmed_and_then_given_back() -> None:
    """Otherwise nobody would give back what Redis has granted."""
    driver = Driver(CAREFUL)
    driver.reply(driver.asks("campaign"), reply("granted", ME))
    driver.stop()
    driver.reply(driver.asks("WAIT"), 2)
    driver.asks("release")


def test_s13_a_renewal_that_replicas_must_confirm_does_not_delay_a_release() -> None:
    driver = Driver(CAREFUL)
    driver.reply(driver.asks("campaign"), reply("granted", ME))
    driver.reply(driver.asks("WAIT"), 2)
    driver.reply(driver.asks("reclaim"), reply("renewed", ME))
    driver.reply(driver.asks("WAIT"), 2)
    assert driver.state.term
    driver.now = driver.state.next_at
    driver.reply(driver.asks("renew"), b"1 renewed 1000003 lease:7:2:2 0")
    driver.stop()
    driver.reply(driver.asks("release"), b"1\nreleased")
    assert not [event for event in driver.events if isinstance(event, machine.Renewed)][1:]


@pytest.mark.parametrize(("left", "again"), [(5.0, True), (0.0, False), (-1.0, False)])
def test_s08_a_release_refused_as_late_is_sent_again_while_the_lease_lasts(left: float, again: bool) -> None:
    """The server's clock was set forth after its last answer, so the first request seems to come too late."""
    driver = Driver()
    driver.lead()
    assert driver.state.term
    deadline = driver.state.term.deadline
    driver.stop()
    request = driver.asks("release")
    driver.now = deadline - left
    driver.reply(request, reply("late", "", at=5_000_000))
    if again:
        request = driver.asks("release")
        assert words(request)[5] == b"%013d" % (5_000_000 + left * 1000), "until the end of the lease, by that clock"
        driver.reply(request, b"1\nreleased")
    assert driver.state.ended is None
    driver.now += machine.SECOND_WAKE_UP
    assert words(driver.asks("release"))[6] == b"0", "and then it leaves"


def test_a_release_that_failed_is_over_and_the_candidate_leaves() -> None:
    """If it was not executed, the lease runs out."""
    driver = Driver()
    driver.lead()
    driver.stop()
    assert driver.fails(driver.asks("release")) is True
    driver.now += machine.SECOND_WAKE_UP
    assert isinstance(driver.next(), Leave), "a server that does not answer is told nothing more"


def test_a_release_is_not_tried_for_ever_whatever_prevents_it() -> None:
    driver = Driver()
    driver.lead()
    driver.stop()
    driver.asks("release")
    assert driver.fails(None) is True
    assert driver.state.ended is None


@pytest.mark.parametrize("confirms", [False, True])
def test_a_release_that_is_due_leaves_although_another_request_failed(confirms: bool) -> None:
    """Another thread has called ``stop()`` while a heartbeat hung."""
    driver = Driver(CAREFUL if confirms else CONFIG)
    driver.reply(driver.asks("campaign"), reply("granted", ME))
    if confirms:
        driver.reply(driver.asks("WAIT"), 2)
        driver.reply(driver.asks("reclaim"), reply("renewed", ME))
        driver.reply(driver.asks("WAIT"), 2)
    driver.now = driver.state.next_at
    request = driver.asks("renew")
    if confirms:
        driver.reply(request, b"1 renewed 1000003 lease:7:2:2 0")
        request = driver.asks("WAIT")
    driver.stop()
    assert driver.fails(request, "it hangs") is True
    assert ("failed", "it hangs") in driver.seen
    driver.asks("release", connection=None)


def test_a_delay_and_the_clocks_are_published_with_the_release() -> None:
    driver = Driver()
    driver.lead()
    driver.stop(30.0)
    said = words(driver.asks("release"))
    assert (said[9], said[11]) == (b"30000", f"{BOOT} 100000 1000000100000".encode())


def test_who_leaves_says_so_once_and_ends_its_waits_first() -> None:
    driver = Driver()
    driver.held(driver.asks("campaign"))
    driver.stop()
    todo = driver.next()
    assert isinstance(todo, Send)
    assert todo.alone
    assert words(todo.request)[6:9] == [b"0", b"", b"1"]
    driver.reply(todo.request, b"1\nnothing")
    assert isinstance(driver.next(), Leave)


def test_who_was_never_answered_leaves_without_a_word() -> None:
    driver = Driver()
    driver.stop()
    assert isinstance(driver.next(), Leave)


def test_a_leave_that_fails_is_no_failure_of_redis() -> None:
    driver = Driver()
    driver.held(driver.asks("campaign"))
    driver.stop()
    assert driver.fails(driver.asks("release")) is False
    assert isinstance(driver.next(), Leave)


@pytest.mark.parametrize("stopping", [False, True])
def test_a_wake_up_is_followed_by_a_campaign_unless_it_stops(stopping: bool) -> None:
    driver = Driver()
    driver.held(driver.asks("campaign"))
    wait = driver.waits()
    assert wait.at_redis
    if stopping:
        driver.stop()
    driver.reply(wait.at_redis, (CONFIG.keys.wake.encode(), b"1"))
    driver.asks("release" if stopping else "campaign")


def test_a_death_in_the_answer_is_followed_by_a_claim() -> None:
    driver = Driver()
    driver.dead = (OTHER, 7)
    driver.held(driver.asks("campaign"))
    assert words(driver.asks("campaign"))[-3:-1] == [OTHER.encode(), b"7"]


@pytest.mark.parametrize(
    ("candidates", "drawn", "waits"),
    [(2, 0.999, True), (WAITING_FOLLOWERS, 0.999, True), (1000, 0.0, True), (1000, 0.5, False)],
)
def test_of_many_followers_only_some_wait_for_a_wake_up(candidates: int, drawn: float, waits: bool) -> None:
    driver = Driver()
    driver.held(driver.asks("campaign"), candidates=candidates)
    driver.drawn = drawn
    request = driver.waits().at_redis
    assert request
    assert (CONFIG.keys.wake.encode() in request.template.words) is waits


@pytest.mark.parametrize(
    ("candidates", "over_in", "with_it", "exact"),
    [(3, 9.0, True, False), (1000, 9.0, False, False), (1000, 2.1, False, True), (3, 1.0, False, True)],
)
def test_a_wait_follows_in_the_request_where_none_can_be_due(
    candidates: int, over_in: float, with_it: bool, exact: bool
) -> None:
    """And it ends exactly where something can be due."""
    driver = Driver()
    driver.held(driver.asks("campaign"))
    for _ in range(2):  # the first poll has no wait behind it, because the server may not know the script
        driver.state = driver.state._replace(
            watch=driver.state.watch._replace(expires_at=driver.now + over_in, version="lease:7:1:1"),
            candidates=candidates, next_at=driver.now,
        )  # fmt: skip
        todo = driver.next()
        assert isinstance(todo, Send)
        driver.held(todo.request, candidates=candidates)
    assert isinstance(todo, Send)
    assert (todo.wait is not None) is with_it
    driver.state = driver.state._replace(next_at=driver.now + 2.0)
    assert driver.waits().exact is exact


def test_a_wait_refused_for_a_message_too_long_empties_the_inbox() -> None:
    driver = Driver()
    driver.held(driver.asks("campaign"))
    wait = driver.waits()
    assert wait.at_redis
    assert driver.fails(wait.at_redis, too_long=True) is False
    assert driver.state.blpop_refused
    driver.reply(driver.asks("collect"), [b"1"])
    assert driver.waits() == Wait(driver.state.next_at)
    driver.now = driver.state.next_at
    todo = driver.next()
    assert isinstance(todo, Send)
    assert todo.wait is None
    driver.held(todo.request)
    wait = driver.waits()
    assert wait.at_redis
    driver.reply(wait.at_redis, None)
    assert not driver.state.blpop_refused


def test_messages_are_answered_when_nothing_is_due() -> None:
    driver = Driver()
    driver.lead()
    driver.now = driver.state.next_at
    driver.reply(driver.asks("renew"), b"1 renewed 1000003 lease:7:2:2 1")
    messages = [b'{"duplicate": "me:1"}', b'{"duplicate": "me:2", "answer": true}', b"garbage"]
    driver.reply(driver.asks("collect"), [b"1", *messages])
    assert [seen for seen in driver.seen if seen[0] == "duplicate"] == [("duplicate", "me:1"), ("duplicate", "me:2")]
    assert b'"answer": true' in words(driver.asks("post"))[1]
    driver.waits()


def test_messages_cause_a_bounded_number_of_answers() -> None:
    """Whoever can write to Redis can send any number of messages."""
    driver = Driver()
    driver.lead()
    driver.now = driver.state.next_at
    driver.reply(driver.asks("renew"), b"1 renewed 1000003 lease:7:2:2 1")
    driver.reply(driver.asks("collect"), [b"1", *[b'{"duplicate": "me:1"}'] * 300])
    posts = 0
    while isinstance(todo := driver.next(), Send):
        posts += 1
        driver.reply(todo.request, [b"1"])
    assert 0 < posts <= MAX_ERRANDS


def test_a_refused_errand_is_the_last_for_now() -> None:
    driver = Driver()
    driver.lead()
    driver.now = driver.state.next_at
    driver.reply(driver.asks("renew"), b"1 renewed 1000003 lease:7:2:2 1")
    driver.reply(driver.asks("collect"), [b"1", *[b'{"duplicate": "me:1"}'] * 9])
    assert driver.fails(driver.asks("post"), "NOPERM") is False
    driver.waits()


def test_an_order_to_the_leader_comes_with_the_answer_to_its_heartbeat() -> None:
    """So a leader that nobody orders anything sends nothing more."""
    driver = Driver()
    driver.lead()
    driver.now = driver.state.next_at
    driver.reply(driver.asks("renew"), b"1 renewed 1000003 lease:7:2:2 1")
    order = b'{"order": "one", "what": "run-job", "name": "job", "by": "anna"}'
    driver.reply(driver.asks("collect"), [b"1", order, order.replace(b"run-job", b"else")])
    assert [seen for seen in driver.seen if seen[0] == "ordered"] == [("ordered", Order("one", "job", "anna"))]


def test_a_duplicate_that_a_campaign_finds_is_told_of_us() -> None:
    driver = Driver()
    driver.held(driver.asks("campaign"), duplicate="me:1")
    request = driver.asks("post")
    assert b"inbox:me:1" in b"".join(request.template.words)
    assert driver.fails(request) is False, "it may not be allowed"
    driver.waits()


@pytest.mark.parametrize("ended", [False, True])
def test_errands_wait_while_redis_fails_and_while_a_term_ends(ended: bool) -> None:
    driver = Driver()
    driver.lead()
    if ended:
        driver.apply(machine.Resign(7, "resigned"))
        assert driver.session.next(driver.now, 1) == Wait(109.8, connect=True)
    else:
        driver.apply(machine.Failed(0.5))
        assert isinstance(driver.session.next(driver.now, 1), Wait)


def test_the_servers_configuration_is_asked_for_again_after_an_outage() -> None:
    driver = Driver()
    driver.held(driver.asks("campaign"))
    driver.waits()
    assert [kind for kind, _ in driver.seen] == ["answered", "server", "server"]
    driver.now = driver.state.next_at
    assert driver.fails(driver.asks("poll")) is True
    driver.now = driver.state.next_at
    driver.held(driver.asks("campaign"))
    driver.waits()
    assert [kind for kind, _ in driver.seen] == ["answered", "server", "server"] * 2


def test_garbage_is_an_error_that_names_the_request() -> None:
    driver = Driver()
    with pytest.raises(GarbledReply, match="the reply to campaign does not belong to its request"):
        driver.reply(driver.asks("campaign"), b"1\ngranted\n7")
    assert driver.events == []


def test_what_failed_otherwise_is_a_failure() -> None:
    driver = Driver(CAREFUL)
    driver.reply(driver.asks("campaign"), reply("granted", ME))
    assert driver.fails(None) is True
    driver.now = driver.state.next_at
    driver.asks("campaign")


def status(instance_id: str, project: str) -> list[Any]:
    info = f'{{"instance_id": "{instance_id}", "project": "{project}"}}'.encode()
    return [b"1", f"{instance_id}:0123456789abcdef".encode(), 9000, info, b"7", 2, b"lease"]


def test_a_leader_of_another_project_is_told_so_and_so_are_we() -> None:
    driver = Driver(replace(CONFIG, projects=("mine",)))
    driver.held(driver.asks("campaign"))
    driver.reply(driver.asks("status"), status("other", "theirs"))
    assert driver.seen[-1] == ("project", "theirs")
    request = driver.asks("post")
    assert OTHER.encode() in b"".join(request.template.words)
    driver.reply(request, [b"1"])
    driver.waits()


def test_a_leader_that_changed_meanwhile_is_asked_for_again() -> None:
    """Otherwise the message would go to the last leader, and the new one would not be told."""
    driver = Driver(replace(CONFIG, projects=("mine",)))
    driver.held(driver.asks("campaign"))
    driver.reply(driver.asks("status"), status("third", "theirs"))
    driver.waits()
    assert ("project", "theirs") not in driver.seen
    driver.now = driver.state.next_at
    driver.reply(driver.asks("poll"), reply("held", "third:0123456789abcdef"))
    driver.reply(driver.asks("status"), status("third", "theirs"))
    assert b"inbox:third:" in b"".join(driver.asks("post").template.words)
