"""The checker on histories written by hand: it finds what is wrong, and nothing in what only looks so."""

from __future__ import annotations

from pathlib import Path

import pytest

from .checker import SECOND, check, disorder, hasty, overlaps, recoveries, revived, unpaired
from .journal import Callback, Events, Fault, History, Lease, Samples, Stretch, read


def led(process: str, token: int, first: int, last: int, look: int = 1) -> Stretch:
    """The process led from its look at ``first`` to its look at ``last``, each of them so long."""
    return Stretch(process, token, first, first + look, last, last + look)


def said(process: str, *calls: tuple[str, int]) -> list[Callback]:
    return [Callback(process, kind, token, 10 * at) for at, (kind, token) in enumerate(calls)]


def test_terms_one_behind_the_other_are_well() -> None:
    history = History(
        stretches=[led("a", 1, 10, 20), led("b", 2, 21, 30), led("a", 3, 40, 50)],
        callbacks=[
            *said("a", ("gain", 1), ("loss", 1), ("gain", 3), ("loss", 3)),
            *said("b", ("gain", 2), ("loss", 2)),
        ],
    )
    assert check(history).violations == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (led("a", 1, 10, 30), led("b", 2, 20, 40)),
        (led("a", 1, 10, 90), led("b", 2, 20, 40)),
        (led("a", 1, 10, 30), led("b", 2, 10, 30)),
        (led("a", 1, 10, 30), led("b", 2, 28, 90)),
        (led("a", 1, 10, 30), led("b", 2, 20, 20)),
        (led("a", 1, 10, 30), led("b", 2, 20, 90, look=5)),
    ],
    ids=["in part", "within", "the same", "at the edge", "one look", "a long look"],
)
def test_two_that_led_at_one_instant_are_found(one: Stretch, other: Stretch) -> None:
    for stretches in ([one, other], [other, one]):
        (found,) = overlaps(History(stretches=stretches))
        assert found.what == "overlap"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (led("a", 1, 10, 30), led("b", 2, 31, 40)),
        (led("a", 1, 10, 30), led("b", 2, 30, 40)),
        (led("a", 1, 10, 30, look=50), led("b", 2, 35, 40)),
        (led("a", 1, 10, 10), led("b", 2, 10, 10)),
        (led("a", 1, 10, 30), led("b", 2, 25, 25, look=10)),
        (led("a", 1, 10, 30), led("a", 2, 20, 40)),
    ],
    ids=["behind", "touching", "stopped while looking", "two single looks", "half outside", "one process"],
)
def test_what_is_not_certain_is_not_reported(one: Stretch, other: Stretch) -> None:
    assert overlaps(History(stretches=[one, other])) == []
    assert overlaps(History(stretches=[other, one])) == []


def test_a_token_of_two_processes_is_found() -> None:
    (found,) = disorder(History(stretches=[led("a", 7, 10, 20), led("b", 7, 30, 40)]))
    assert "token 7 was given to a, b" in found.text
    (found,) = disorder(History(stretches=[led("a", 7, 10, 20)], callbacks=said("b", ("gain", 7))))
    assert "token 7 was given to a, b" in found.text


def test_a_lower_token_behind_a_higher_one_is_found() -> None:
    (found,) = disorder(History(stretches=[led("a", 7, 10, 20), led("b", 6, 30, 40)]))
    assert found.text == "b led with 6 behind a with 7"
    (found,) = disorder(History(stretches=[led("a", 7, 10, 20), led("a", 6, 30, 40)]))
    assert found.text == "a led with 6 behind a with 7"


def test_a_term_that_comes_back_is_found() -> None:
    (found,) = revived(History(stretches=[led("a", 7, 10, 20), led("a", 7, 30, 40)]))
    assert found.text == "a led again with 7, which had ended"


@pytest.mark.parametrize(
    "calls",
    [
        [("loss", 1)],
        [("gain", 1)],
        [("gain", 1), ("gain", 2), ("loss", 2)],
        [("gain", 1), ("loss", 2)],
        [("gain", 1), ("loss", 1), ("loss", 1)],
        [("gain", 1), ("loss", 1), ("gain", 1), ("loss", 1)],
        [("gain", 2), ("loss", 2), ("gain", 1), ("loss", 1)],
        [("loss", 1), ("gain", 1)],
    ],
)
def test_callbacks_that_are_not_strictly_paired_are_found(calls: list[tuple[str, int]]) -> None:
    assert unpaired(History(callbacks=said("a", *calls)))


def test_who_was_killed_may_owe_the_last_loss_and_no_other() -> None:
    last = History(callbacks=said("a", ("gain", 1), ("loss", 1), ("gain", 2)), killed={"a"})
    assert unpaired(last) == []
    earlier = History(callbacks=said("a", ("gain", 1), ("gain", 2)), killed={"a"})
    assert unpaired(earlier)


def test_a_term_that_nobody_was_told_of_is_found() -> None:
    (found,) = unpaired(History(stretches=[led("a", 7, 10, 20)]))
    assert "no gain was announced" in found.text


def recovering(start: int, asked: int, *, fault: int = 10, stalls: tuple[tuple[int, int], ...] = ()) -> History:
    """After a fault, ``a`` leads from ``start`` on, with a lease that was asked for at ``asked``. In seconds."""
    lease = Lease("a", 7, (asked + 1) * SECOND, (asked + 2) * SECOND)
    return History(
        stretches=[led("a", 7, start * SECOND, (start + 5) * SECOND)],
        callbacks=said("a", ("gain", 7), ("loss", 7)),
        leases=[lease],
        faults=[Fault(1, "kill -9", fault * SECOND, fault * SECOND)],
        stalls=[(began * SECOND, end * SECOND) for began, end in stalls],
        bound=3 * SECOND,
        lease=2 * SECOND,
    )


def test_the_recovery_is_the_time_until_one_leads() -> None:
    (recovery,) = recoveries(recovering(start=12, asked=11))
    assert recovery.time is not None
    assert recovery.time // SECOND == 2
    assert check(recovering(start=12, asked=11)).violations == []


def test_a_leader_that_led_throughout_took_no_time() -> None:
    (recovery,) = recoveries(recovering(start=8, asked=11))
    assert recovery.time == 0


def test_a_lease_from_before_the_fault_is_no_recovery() -> None:
    (recovery,) = recoveries(recovering(start=8, asked=9))
    assert recovery.time is None
    (found,) = check(recovering(start=8, asked=9)).violations
    assert (found.what, "nobody led again" in found.text) == ("late", True)


def test_a_recovery_that_takes_too_long_is_found() -> None:
    """Unless the machine stood still meanwhile."""
    (found,) = check(recovering(start=15, asked=14)).violations
    assert found.what == "late"
    assert check(recovering(start=15, asked=14, stalls=((11, 13),))).violations == []


def test_a_lease_that_nobody_claimed_at_once_is_found_where_somebody_could() -> None:
    history = recovering(start=12, asked=11)
    history.faults = [history.faults[0]._replace(bound=SECOND)]
    (found,) = check(history).violations
    assert (found.what, found.text[-15:]) == ("late", "allowed are 1.00 s"[-15:])


def test_a_term_that_began_when_nobody_might_be_elected_is_found() -> None:
    history = recovering(start=12, asked=11)
    history.faults = [history.faults[0]._replace(nobody_until=13 * SECOND)]
    (found,) = hasty(history)
    assert found.what == "hasty"
    for start in (8, 13):
        history = recovering(start=start, asked=11)
        history.faults = [history.faults[0]._replace(nobody_until=13 * SECOND)]
        assert hasty(history) == []


def test_a_process_that_ended_by_itself_is_found() -> None:
    (found,) = check(History(crashed={"a": 1})).violations
    assert found.what == "crashed"


def test_an_exception_that_nobody_expected_is_found() -> None:
    (found,) = check(History(raised=[("a", 7, "Traceback")])).violations
    assert (found.what, found.text) == ("raised", "a: Traceback")


def test_what_never_happened_is_found() -> None:
    (found,) = check(History(stuck=[(7, "one leads")])).violations
    assert (found.what, found.at) == ("stuck", 7)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    samples, events = Samples(tmp_path / "a.samples"), Events(tmp_path / "a.events")
    samples.add(7, 10, 11)
    samples.add(7, 20, 21)
    samples.close()
    samples.add(8, 30, 31)
    samples.add(9, 40, 41)
    events.add("gain", token=7)
    events.add("lease", token=7, deadline=99)
    events.add("loss", token=7, reason="expired")
    nemesis = Events(tmp_path / "nemesis.events")
    nemesis.add("run", bound=3, lease=2)
    nemesis.add("fault", number=1, kind="fork", began=1, since=2, detail="", bound=0, nobody_until=0)
    nemesis.add("killed", process="b")
    nemesis.add("crashed", process="c", status=1)
    events.add("raised", text="Traceback")
    nemesis.add("stuck", text="one leads")
    nemesis.add("stall", began=4)
    history = read(tmp_path)
    assert history.stretches == [
        Stretch("a", 7, 10, 11, 20, 21),
        Stretch("a", 8, 30, 31, 30, 31),
        Stretch("a", 9, 40, 41, 40, 41),
    ]
    assert [(c.process, c.kind, c.token, c.reason) for c in history.callbacks] == [
        ("a", "gain", 7, ""),
        ("a", "loss", 7, "expired"),
    ]
    assert (history.leases[0].deadline, history.faults[0].kind) == (99, "fork")
    assert (history.killed, history.crashed, history.stalls[0][0]) == ({"b"}, {"c": 1}, 4)
    assert (history.bound, history.lease) == (3, 2)
    assert [text for _, text in history.stuck] == ["one leads"]
    assert [(process, text) for process, _, text in history.raised] == [("a", "Traceback")]
