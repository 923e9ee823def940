"""The driver of the jobs of one term: what it claims, when, and what it makes of the answers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from django_leader.protocol.config import Config
from django_leader.protocol.expiry import ExpiryProof
from django_leader.protocol.jobs import MOST_ORDERS, MOST_RUNS, Decided, Going, Job, JobSession
from django_leader.protocol.orders import LONGEST_BY, Look, Order, give, received
from django_leader.protocol.records import Answer
from django_leader.protocol.replies import message
from django_leader.protocol.requests import Requests
from django_leader.protocol.schedule import Every
from django_leader.protocol.session import Leave, Send, Wait
from django_leader.protocol.slots import MOST_CLAIMS, End, SlotRequests
from django_leader.protocol.template import GarbledReply, Request

ME = "me:0000000000000000"
SERVER = 1_800_000_000.0
"""What the server's clock shows at our instant 0."""
MINUTE = 60_000
START = int(SERVER * 1000)
CONFIG = Config(lock_ttl=10, retry_interval=2, heartbeat_interval=3).validate()
HELD = Answer("renewed", 7, ME, 10.0, 1, "", SERVER, "lease:7:1:1", 10.0)
JOB = Job("job", Every(60))


def seen(at: float = 0.0, ahead: float = SERVER) -> ExpiryProof:
    """A candidate that has had an answer at the instant ``at``."""
    return ExpiryProof().observe(at, HELD._replace(at=at + ahead), at, 5.0)


class Driven:
    """A session of jobs, its clock, and what was asked of the server."""

    def __init__(self, *jobs: Job, replicas: int = 0, threads: float = float("inf")) -> None:
        config = CONFIG
        if replicas:
            config = Config(lock_ttl=10, retry_interval=2, heartbeat_interval=3, min_replicas=replicas).validate()
        self.going: dict[str, Going] = {}
        ids = (f"id{number}" for number in itertools.count(1))
        requests = SlotRequests(config.keys, ME, 7, SERVER)
        wait = Requests(config, ME).await_replicas()
        self.session = JobSession(jobs or (JOB,), requests, config.timing, self.going, wait, ids.__next__, threads)
        self.now, self.deadline, self.watch = 0.0, 1e9, seen()
        self.request: Request | None = None

    def next(self) -> str | float:
        """The name of the request that leaves; until when it waits; or 'leave'."""
        todo = self.session.next(self.now, self.watch, self.deadline)
        self.request = todo.request if isinstance(todo, Send) else None
        if isinstance(todo, Wait):
            return todo.until
        return "leave" if isinstance(todo, Leave) else todo.request.template.name

    def claims(self) -> list[list[str]]:
        """Asserts that claims leave; the words of each."""
        assert self.next() == "claim"
        assert self.request
        words = [word.decode() for word in self.request.words(b"1")][4 + 6 :]
        return [words[first : first + 8] for first in range(0, len(words), 8)]

    def not_after(self) -> float:
        assert self.request
        return int(self.request.words(b"1")[4 + 3]) / 1000

    def memory(self) -> str:
        assert self.request
        return self.request.words(b"1")[4 + 4].decode()

    def reply(self, *lines: str, overall: str = "decided", at: float | None = None, memory: str = "m") -> list[Decided]:
        at = self.now + SERVER if at is None else at
        return self.receive("\n".join(["1", overall, f"{at * 1000:.0f}", memory, *lines]).encode())

    def receive(self, reply: Any) -> list[Decided]:
        assert self.request
        return self.session.reply(self.request, reply, self.now)

    def fails(self) -> None:
        self.session.failed(self.now)


def line(verdict: str, slot: int, attempt: int = 0, last: int = 0, last_slot: int = 0, outcome: str = "none") -> str:
    return f"{verdict} {slot} {attempt} {last} {last_slot} {outcome} 0"


@pytest.fixture
def driven() -> Driven:
    return Driven()


def known(driven: Driven, slot: int = START) -> Driven:
    """The same, when the last slot has been claimed and was done."""
    driven.claims()
    driven.reply(line("done", slot, last=slot))
    return driven


def test_a_term_begins_with_the_last_slot_of_each_job() -> None:
    driven = Driven(JOB, Job("other", Every(3600, 5), 7.5, "rerun"))
    driven.now = 10.0
    assert driven.claims() == [
        ["job", str(START), str(START - MINUTE), "id1", "30000", "skip", "0", "0"],
        ["other", str(START + 5000), str(START - 3_595_000), "id2", "7500", "rerun", "0", "0"],
    ]
    assert driven.not_after() == SERVER + 10 + CONFIG.timing.operation


def test_the_next_slot_is_waited_for_and_claimed_on_time(driven: Driven) -> None:
    driven.now = 10.0
    known(driven)
    assert driven.next() == pytest.approx(60.0)
    driven.now = 59.99
    assert driven.next() == pytest.approx(60.0)
    driven.now = 60.0
    assert [claim[1] for claim in driven.claims()] == [str(START + MINUTE)]


def test_a_claim_is_never_early_by_what_the_answer_took() -> None:
    """The server's clock is ahead of ours by 0.5 to 1 s, for all that is known."""
    driven = known(Driven())
    driven.now = 1.0
    driven.watch = ExpiryProof().observe(0.5, HELD._replace(at=SERVER + 1.5), 1.0, 5.0)
    assert driven.next() == pytest.approx(59.5)


def test_of_several_slots_that_are_due_the_last_is_claimed(driven: Driven) -> None:
    known(driven).now = 200.0
    assert driven.claims()[0][1:3] == [str(START + 3 * MINUTE), str(START + 2 * MINUTE)]


@pytest.mark.parametrize("verdict", ["run", "missed", "overlapped", "in-doubt"])
def test_what_was_decided_is_this_terms_own(driven: Driven, verdict: str) -> None:
    driven.claims()
    [decided] = driven.reply(line(verdict, START, 1, START))
    assert (decided.job, decided.decision.verdict, decided.claim.slot) == (JOB, verdict, START)
    driven.now = 60.0
    assert driven.claims()[0][7] == str(START)


@pytest.mark.parametrize("verdict", ["done", "waiting"])
def test_what_others_have_decided_is_not(driven: Driven, verdict: str) -> None:
    driven.claims()
    driven.reply(line(verdict, START, last=START + 5 * MINUTE))
    driven.now = 359.0
    assert driven.next() == pytest.approx(360.0), "after the last that was decided"
    driven.now = 360.0
    assert driven.claims()[0][7] == "0"


def test_a_second_start_leaves_the_slot_to_be_claimed_anew(driven: Driven) -> None:
    driven.claims()
    driven.reply(line("rerun", START - MINUTE, 2))
    driven.going["job"] = Going(0.0)
    claim = driven.claims()[0]
    assert (claim[1], claim[3], claim[6], claim[7]) == (str(START), "id2", "1", str(START - MINUTE))


def test_a_slot_that_is_early_waits_for_the_servers_clock(driven: Driven) -> None:
    """It has been set back by ten seconds."""
    driven.claims()
    driven.reply(line("early", START), at=SERVER - 10)
    driven.now = 1.0
    assert driven.next() == pytest.approx(10.0)
    driven.now, driven.watch = 2.0, seen(2.0)
    assert driven.claims()[0][1] == str(START), "a later answer to the candidate says more"


def test_a_run_that_goes_on_is_told_and_a_hung_one_too() -> None:
    driven = known(Driven(JOB._replace(max_run=90.0)))
    driven.going["job"], driven.now = Going(50.0), 120.0
    assert driven.claims()[0][6] == "1"
    driven.reply(line("overlapped", START + 2 * MINUTE))
    driven.now = 180.0
    assert driven.claims()[0][6] == "hung"


def test_j08_beside_three_runs_that_hang_none_is_started() -> None:
    driven = known(Driven(JOB._replace(max_run=90.0)))
    driven.now = 180.0
    for number in range(1, MOST_RUNS + 2):
        driven.going["job"] = Going(50.0, number)
        assert driven.claims()[0][6] == ("hung" if number < MOST_RUNS else "blocks")


def test_j08_while_all_threads_are_busy_no_other_job_is_claimed() -> None:
    jobs = [JOB._replace(name=f"job {number}", max_run=90.0) for number in range(4)]
    driven = Driven(*jobs, threads=2)
    assert [claim[0] for claim in driven.claims()] == ["job 0", "job 1"]
    driven.reply(line("run", START, 1, START), line("run", START, 1, START))
    driven.going.update({"job 0": Going(0.0), "job 1": Going(1.0)})
    assert driven.next() == pytest.approx(60.0), "when the next slot of one that goes on is due"
    assert (driven.session.put_off, driven.session.waits_since) == (2, 0.0)
    driven.now = 60.0
    assert [(claim[0], claim[6]) for claim in driven.claims()] == [("job 0", "1"), ("job 1", "1")], "as overlapped"
    driven.reply(line("overlapped", START + MINUTE), line("overlapped", START + MINUTE))
    assert driven.next() == pytest.approx(90.0), "when a run will be hung"
    driven.now = 90.1
    assert [(claim[0], claim[2]) for claim in driven.claims()] == [("job 2", str(START))]
    driven.reply(line("run", START + MINUTE, 1, START + MINUTE))
    driven.going["job 2"] = Going(90.1)
    del driven.going["job 1"]
    assert [claim[0] for claim in driven.claims()] == ["job 3"], "the one that is due for longest"
    assert (driven.session.put_off, driven.session.waits_since) == (0, float("inf"))


def test_j07_a_claim_without_an_answer_waits_for_no_thread() -> None:
    driven = Driven(JOB, JOB._replace(name="other"), threads=1)
    first = driven.claims()
    driven.fails()
    driven.going["other"] = Going(0.0)
    driven.now = float(driven.next())
    assert driven.claims()[:1] == first


def test_a_run_that_waits_for_its_jitter_takes_no_thread() -> None:
    driven = Driven(JOB, JOB._replace(name="other"), threads=1)
    driven.claims()
    driven.reply(line("run", START, 1, START))
    driven.going["job"] = Going(0.0, 1, begun=False)
    assert [claim[0] for claim in driven.claims()] == ["other"]


@pytest.mark.parametrize("since", [0, START - 5 * MINUTE])
def test_an_answer_says_which_slots_were_left_out(driven: Driven, since: int) -> None:
    driven.claims()
    [decided] = driven.reply(line("run", START, 1, START).removesuffix("0") + str(since))
    assert decided.decision.since == since


def test_j07_a_claim_without_an_answer_waits_until_it_is_too_old(driven: Driven) -> None:
    first = driven.claims()
    driven.fails()
    assert driven.next() == CONFIG.timing.operation
    driven.now = 130.0
    assert driven.claims() == first, "with its id, and its slot"
    driven.reply(line("missed", START))
    assert driven.claims()[0][1:4] == [str(START + 2 * MINUTE), str(START + MINUTE), "id2"]


def test_failures_in_a_row_are_apart_by_the_retry_interval_at_most(driven: Driven) -> None:
    for overall in ("stale", "late") * 10:
        driven.claims()
        assert driven.reply(overall=overall) == []
        before = driven.now
        driven.now = float(driven.next())
        assert before < driven.now <= before + CONFIG.timing.retry
    assert driven.now - before == CONFIG.timing.retry


def test_j06_after_a_loss_the_last_slot_of_each_job_is_claimed_again() -> None:
    driven = Driven(JOB, Job("other", Every(3600)))
    driven.claims()
    assert driven.memory() == ""
    driven.reply(overall="forgotten", memory="first")
    assert len(driven.claims()) == 2
    assert driven.memory() == "first"
    driven.reply(line("run", START, 1, START), line("done", START, last=START))
    driven.now = 60.0
    driven.claims()
    driven.reply(overall="forgotten", memory="second")
    claims = driven.claims()
    assert driven.memory() == "second"
    assert [claim[:2] for claim in claims] == [["job", str(START + MINUTE)], ["other", str(START)]]
    assert [claim[7] for claim in claims] == [str(START), "0"]


def test_many_jobs_are_claimed_in_several_requests() -> None:
    driven = Driven(*[Job(f"job {number}", Every(60)) for number in range(2 * MOST_CLAIMS + 1)])
    for count in (MOST_CLAIMS, MOST_CLAIMS, 1):
        assert len(driven.claims()) == count
        assert len(driven.reply(*[line("run", START, 1, START)] * count)) == count
    assert driven.next() == pytest.approx(60.0)


@pytest.mark.parametrize("replicas", [1, 2])
def test_j09_a_claim_counts_when_enough_replicas_have_it(replicas: int) -> None:
    driven = Driven(replicas=2)
    first = driven.claims()
    assert driven.reply(line("run", START, 1, START)) == []
    assert driven.next() == "WAIT"
    decided = driven.receive(replicas)
    assert [one.decision.verdict for one in decided] == (["run"] if replicas == 2 else [])
    if replicas == 1:
        driven.now = float(driven.next())
        assert driven.claims() == first


def test_j09_a_confirmation_that_fails_is_none() -> None:
    driven = Driven(replicas=1)
    first = driven.claims()
    driven.reply(line("run", START, 1, START))
    assert driven.next() == "WAIT"
    driven.fails()
    driven.now = float(driven.next())
    assert driven.claims() == first


def test_ends_leave_before_claims_and_after_the_term(driven: Driven) -> None:
    driven.claims()
    driven.reply(line("run", START, 1, START))
    driven.session.ended(End(7, "job", START, "id1", "ok", 1.5))
    driven.now = 60.0
    assert driven.next() == "finish"
    driven.fails()
    driven.now = driven.deadline = 70.0
    assert driven.next() == "finish", "again"
    driven.receive(b"1\nfinished")
    assert driven.next() == "leave"


def test_a_claim_is_too_old_at_the_end_of_the_term(driven: Driven) -> None:
    driven.deadline = 0.5
    driven.claims()
    assert driven.not_after() == SERVER + 0.5
    driven.now = 0.5
    assert driven.next() == "leave"


@pytest.mark.parametrize("reply", [b"1\ndecided\n5\nm", b"1\ndecided\n5\nm\nrun 1 1 1 1", b"1\nother\n5\nm", b"x"])
def test_a_reply_that_is_none_is_refused(driven: Driven, reply: bytes) -> None:
    driven.claims()
    with pytest.raises(GarbledReply):
        driven.receive(reply)


def test_without_jobs_nothing_is_due() -> None:
    driven = Driven()
    driven.session = JobSession(
        [], SlotRequests(CONFIG.keys, ME, 7, SERVER), CONFIG.timing, {}, driven.session._await_replicas
    )
    assert driven.next() == float("inf")


def test_a_slot_that_the_caller_names_is_claimed() -> None:
    driven = Driven()
    driven.session.want(START - 7, START - 100)
    [[name, slot, before, *_]] = driven.claims()
    assert (name, slot, before) == ("job", str(START - 7), str(START - 100))


def test_j07_a_named_slot_does_not_replace_one_without_an_answer() -> None:
    driven = Driven()
    driven.session.want(START - 7, 0)
    [first] = driven.claims()
    driven.session.failed(driven.now)
    driven.session.want(START - 1, 0)
    driven.now += 100.0
    assert driven.claims() == [first]


ORDER = Order("order1", "job", "anna@laptop")


def take(driven: Driven) -> list[str]:
    """Asserts that an order is taken; the job, and what is known of its last run."""
    assert driven.next() == "take"
    assert driven.request
    return [word.decode() for word in driven.request.words(b"1")][5 + 3 :]


def took(driven: Driven, verdict: str) -> list[Decided]:
    return driven.receive(f"1\n{verdict}\n{(driven.now + SERVER) * 1000:.0f}\n{START + 7}\nanna".encode())


def test_j11_an_order_is_taken_and_decides_no_slot(driven: Driven) -> None:
    until = known(driven).next()
    driven.session.ordered(ORDER)
    assert take(driven) == ["job", "0"]
    assert driven.not_after() == SERVER + CONFIG.timing.operation
    [decided] = took(driven, "run")
    assert (decided.order, decided.decision.verdict, decided.decision.slot) == (ORDER, "run", START + 7)
    assert decided.claim.claim_id == "order1"
    assert driven.next() == until
    driven.now = 60.0
    assert driven.claims()[0][-1] == "0", "no slot was decided by it"


def test_j11_an_order_that_comes_twice_is_started_once(driven: Driven) -> None:
    known(driven)
    for _ in range(2):
        driven.session.ordered(ORDER)
    assert take(driven)
    took(driven, "run")
    driven.session.ordered(ORDER)
    assert driven.next() == 60.0


def test_j10_j11_a_copy_of_an_order_with_another_name_is_none(driven: Driven) -> None:
    driven.session.ordered(ORDER)
    driven.session.ordered(ORDER._replace(by="eve@laptop"))
    assert len(driven.session._orders) == 1


def test_j07_j11_an_order_is_taken_again_when_the_first_is_too_old(driven: Driven) -> None:
    known(driven)
    driven.session.ordered(ORDER)
    take(driven)
    not_after = driven.not_after()
    driven.fails()
    assert driven.next() == pytest.approx(not_after - SERVER)
    driven.now = not_after - SERVER
    driven.going["job"] = Going(driven.now)
    assert take(driven) == ["job", "1"]
    [decided] = took(driven, "overlapped")
    assert decided.decision.verdict == "overlapped"


def test_j08_j11_an_order_waits_for_claims_without_an_answer(driven: Driven) -> None:
    driven.session.ordered(ORDER)
    driven.claims()
    driven.fails()
    driven.now = 10.0
    driven.claims()
    driven.reply(line("done", START, last=START))
    assert take(driven) == ["job", "0"]


@pytest.mark.parametrize("verdict", ["gone", "absent"])
def test_an_order_that_is_not_to_be_carried_out_is_forgotten(verdict: str, driven: Driven) -> None:
    known(driven)
    driven.session.ordered(ORDER._replace(name="other"))
    assert take(driven) == ["other", "absent"]
    assert took(driven, verdict) == []
    assert driven.next() == 60.0


@pytest.mark.parametrize("verdict", ["stale", "late"])
def test_an_order_that_cannot_be_taken_yet_is_tried_again(verdict: str, driven: Driven) -> None:
    known(driven)
    driven.session.ordered(ORDER)
    take(driven)
    assert took(driven, verdict) == []
    driven.now = float(driven.next())
    assert 0 < driven.now < CONFIG.timing.retry
    take(driven)
    driven.deadline = driven.now
    assert driven.next() == "leave", "it ends with the term"


def test_orders_that_wait_are_limited(driven: Driven) -> None:
    known(driven)
    for number in range(MOST_ORDERS + 5):
        driven.session.ordered(ORDER._replace(order_id=f"order{number}"))
    for _ in range(MOST_ORDERS):
        take(driven)
        took(driven, "gone")
    assert driven.next() == 60.0


def test_a_garbled_answer_to_an_order_is_none(driven: Driven) -> None:
    known(driven)
    driven.session.ordered(ORDER)
    take(driven)
    for reply in (b"", b"1\nrun", b"1\nrun\n5\nx\n", b"1\nrun\n5\n" + b"9" * 5000 + b"\n", None):
        with pytest.raises(GarbledReply):
            driven.receive(reply)


GIVEN = {"order": "order1", "what": "run-job", "name": "job", "by": "anna@laptop"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ORDER),
        ({"later": 1}, ORDER),
        ({"by": "anna\n@laptop"}, ORDER),
        ({"what": "else"}, None),
        ({"order": "a b"}, None),
        ({"order": "a" * 65}, None),
        ({"order": 5}, None),
        ({"name": None}, None),
        ({"name": "j\nob"}, None),
        ({"by": None}, None),
    ],
)
def test_which_messages_are_orders(change: dict[str, Any], expected: Order | None) -> None:
    assert received(GIVEN | change) == expected


def test_a_long_order_fits_into_a_message() -> None:
    order = ORDER._replace(name="\U0001f600" * 200, by="\U0001f600" * LONGEST_BY)
    seen = Look(5.0, ME, 7, "", 0, "", 0.0, "")
    [text] = [word for word in give(CONFIG, order, seen, 5.0).words(b"1") if word.startswith(b'{"')]
    assert received(message(text)) == order


def test_j08_j11_an_order_waits_for_a_free_thread() -> None:
    """That it was given for a job that goes on, or is not there, can be said without one."""
    driven = Driven(JOB, JOB._replace(name="other"), threads=1)
    for _ in range(2):
        driven.claims()
        driven.reply(line("done", START, last=START))
    driven.going["other"] = Going(driven.now)
    driven.session.ordered(ORDER)
    assert driven.next() == 60.0
    del driven.going["other"]
    assert take(driven) == ["job", "0"]
    driven.going["job"] = Going(driven.now)
    assert take(driven) == ["job", "1"]
