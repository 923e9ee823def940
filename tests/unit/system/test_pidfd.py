"""What is a proof of death and what is not, with the answers of an invented kernel."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_leader.system import clock, pidfd
from django_leader.system.pidfd import HolderWatch, Identity, boot_time, same_boot
from tests.support.invented_kernel import BOOTED, TICKS, Kernel, Process

TERM = ("holder:1", 7)
numbers = st.integers(0, 2**64 - 1)


def installed(monkeypatch: pytest.MonkeyPatch, *, pidfs: bool) -> Iterator[Kernel]:
    kernel = Kernel(pidfs=pidfs)
    kernel.install(monkeypatch)
    yield kernel
    assert kernel.descriptors == {}, "everything was closed"


@pytest.fixture(params=[True, False], ids=["pidfs", "no pidfs"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    yield from installed(monkeypatch, pidfs=request.param)


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    yield from installed(monkeypatch, pidfs=False)


@pytest.fixture
def new(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    yield from installed(monkeypatch, pidfs=True)


@pytest.fixture
def watching() -> Iterator[HolderWatch]:
    watching = HolderWatch()
    yield watching
    watching.forget()


def renews(watching: HolderWatch, text: str, *versions: str) -> None:
    for version in versions:
        watching.follow(TERM, text, clock.now(), version)


def state(watching: HolderWatch) -> tuple[bool, bool]:
    """(whether a process is watched, whether it is dead)."""
    dead = watching.dead() is not None
    return watching.fd is not None, dead


def test_s24_a_holder_that_was_seen_renewing_and_ends_is_dead(kernel: Kernel, watching: HolderWatch) -> None:
    holder = kernel.runs(Process(200))
    renews(watching, holder.text, "1", "2", "3")
    assert state(watching) == (True, False)
    kernel.ends(holder, reaped=False)
    assert watching.dead() == TERM
    assert state(watching) == (False, True)
    renews(watching, holder.text, "3")
    assert watching.dead() == TERM
    watching.forget()
    assert watching.dead() is None


def test_s24_a_holder_that_was_reaped_before_anybody_looked_is_dead(kernel: Kernel, watching: HolderWatch) -> None:
    holder = kernel.runs(Process(200))
    renews(watching, holder.text, "1", "2", "3")
    kernel.ends(holder)
    assert watching.dead() == TERM


def test_s24_with_pidfs_one_answer_is_enough(new: Kernel, watching: HolderWatch) -> None:
    holder = new.runs(Process(200))
    renews(watching, holder.text, "1")
    new.ends(holder)
    assert watching.dead() == TERM


@pytest.mark.parametrize("versions", [["1"], ["1", "2"], ["1", "2", "2", "2"]])
def test_s24_without_pidfs_the_holder_must_be_seen_renewing(
    old: Kernel, watching: HolderWatch, versions: list[str]
) -> None:
    # The first answer was asked for before the pidfd was opened, and the second says which version there was after it.
    holder = old.runs(Process(200))
    renews(watching, holder.text, *versions)
    old.ends(holder, reaped=False)
    assert state(watching) == (False, False), "nor is there anything to poll that would be readable for ever"
    renews(watching, holder.text, "9")
    assert state(watching) == (False, False), "a zombie cannot be told apart"
    old.ends(holder)
    renews(watching, holder.text, "9")
    assert state(watching) == (False, True), "but it was seen alive here, and now there is no such process"


def test_s24_without_pidfs_an_answer_that_was_asked_for_before_is_no_renewal(
    old: Kernel, watching: HolderWatch
) -> None:
    holder = old.runs(Process(200))
    before = clock.now()
    watching.follow(TERM, holder.text, before, "1")
    watching.follow(TERM, holder.text, before, "2")
    watching.follow(TERM, holder.text, before, "3")
    renews(watching, holder.text, "4")
    old.ends(holder)
    assert state(watching) == (False, False)


def test_s24_without_pidfs_what_has_its_pid_and_its_start_time_proves_nothing(
    old: Kernel, watching: HolderWatch
) -> None:
    holder = Process(200, inode=0)
    impostor = old.runs(Process(200))
    renews(watching, holder.text, "1", "1", "1")
    old.ends(impostor, reaped=False)
    assert state(watching) == (False, False)


def test_s24_without_pidfs_a_kernel_whose_pidfds_are_always_readable_is_not_believed(
    old: Kernel, watching: HolderWatch
) -> None:
    holder = old.runs(Process(200, ended=True))
    renews(watching, holder.text, "1", "2", "3", "4")
    assert state(watching) == (False, False)
    old.ends(holder)
    renews(watching, holder.text, "5")
    assert state(watching) == (False, False), "nor was it ever seen alive, so that it is gone proves nothing"


@pytest.mark.parametrize(
    "change", [{"started": 5001}, {"inode": 70002}, {"started": 5001, "inode": 70002}, {"inode": 0}]
)
def test_s24_a_pid_of_another_process_is_not_watched(
    new: Kernel, watching: HolderWatch, change: dict[str, Any]
) -> None:
    impostor = new.runs(Process(200))
    text = impostor.identity._replace(**change).to_text()
    renews(watching, text, "1", "2", "3")
    assert state(watching) == (False, False)
    new.ends(impostor)
    renews(watching, text, "3")
    assert state(watching) == (False, False), "it is not looked at again"


@pytest.mark.parametrize("change", [{"started": 5001}, {"inode": 70002}])
def test_s24_a_pid_of_another_process_is_not_watched_without_pidfs(
    old: Kernel, watching: HolderWatch, change: dict[str, Any]
) -> None:
    text = old.runs(Process(200)).identity._replace(**change).to_text()
    renews(watching, text, "1", "2", "3")
    assert state(watching) == (False, False)


def test_s24_with_pidfs_proc_need_not_show_the_process(new: Kernel, watching: HolderWatch) -> None:
    holder = new.runs(Process(200, hidden=True))
    renews(watching, holder.text, "1")
    assert state(watching) == (True, False)
    new.ends(holder)
    assert watching.dead() == TERM


def test_s24_without_pidfs_a_hidden_process_is_not_watched(old: Kernel, watching: HolderWatch) -> None:
    holder = old.runs(Process(200, hidden=True))
    renews(watching, holder.text, "1", "2", "3")
    assert state(watching) == (False, False)
    old.ends(holder)
    renews(watching, holder.text, "4")
    assert state(watching) == (False, False), "what cannot be looked at is not seen alive"


def test_s24_that_a_process_was_never_seen_here_proves_nothing(kernel: Kernel, watching: HolderWatch) -> None:
    """It may run on another machine that was resumed from the same snapshot."""
    renews(watching, Process(200).text, "1", "2", "3")
    assert state(watching) == (False, False)
    kernel.runs(Process(200))
    renews(watching, Process(200).text, "4")
    assert state(watching) == (False, False), "and it is not looked for again in this term"


def test_s24_a_holder_that_ends_before_it_could_be_looked_at_proves_nothing(
    kernel: Kernel, watching: HolderWatch
) -> None:
    holder = kernel.runs(Process(200))
    kernel.refused[200] = errno.EMFILE
    renews(watching, holder.text, "1", "2", "3")
    del kernel.refused[200]
    kernel.ends(holder)
    renews(watching, holder.text, "4")
    assert state(watching) == (False, False)


def test_s24_a_holder_seen_alive_in_an_earlier_term_is_found_dead(kernel: Kernel, watching: HolderWatch) -> None:
    holder = kernel.runs(Process(200))
    renews(watching, holder.text, "1")
    watching.forget()  # as when it is released, and this candidate leads for a while
    later = holder.identity._replace(booted=holder.identity.booted + 3)  # published anew, as it was measured then
    kernel.ends(holder)
    watching.follow(("holder:1", 9), later.to_text(), clock.now(), "7")
    assert watching.dead() == ("holder:1", 9)


def test_s24_only_the_last_process_that_was_seen_alive_is_remembered(kernel: Kernel, watching: HolderWatch) -> None:
    first, second = kernel.runs(Process(200)), kernel.runs(Process(201, 6000, 70002))
    renews(watching, first.text, "1")
    watching.follow(("holder:2", 8), second.text, clock.now(), "2")
    kernel.ends(first)
    renews(watching, first.text, "3")
    assert state(watching) == (False, False)


def test_s24_what_was_seen_of_one_process_says_nothing_of_another(kernel: Kernel, watching: HolderWatch) -> None:
    holder = kernel.runs(Process(200))
    renews(watching, holder.text, "1")
    kernel.ends(holder)
    watching.follow(("holder:2", 8), holder.identity._replace(started=5001).to_text(), clock.now(), "2")
    assert state(watching) == (False, False)


@pytest.mark.parametrize("seconds", [1.0, -1.0])
def test_s23_a_step_of_the_wall_clock_by_a_second_hinders_no_proof(
    kernel: Kernel, watching: HolderWatch, seconds: float
) -> None:
    holder = kernel.runs(Process(200))
    kernel.booted += seconds
    renews(watching, holder.text, "1", "2", "3")
    assert state(watching) == (True, False)
    kernel.ends(holder)
    assert watching.dead() == TERM


@pytest.mark.parametrize("seconds", [1.001, -1.001, 3600.0])
def test_s23_where_the_wall_time_of_boot_differs_nothing_is_proved(
    kernel: Kernel, watching: HolderWatch, seconds: float
) -> None:
    holder = kernel.runs(Process(200))
    kernel.booted += seconds
    renews(watching, holder.text, "1", "2", "3")
    assert state(watching) == (False, False)
    kernel.ends(holder)
    renews(watching, holder.text, "4")
    assert state(watching) == (False, False)


def test_s23_a_watched_holder_stays_watched_when_the_wall_clock_is_set(kernel: Kernel, watching: HolderWatch) -> None:
    holder = kernel.runs(Process(200))
    renews(watching, holder.text, "1", "2", "3")
    kernel.booted += 3600
    renews(watching, holder.text, "4")
    kernel.ends(holder)
    assert watching.dead() == TERM


def test_s23_a_holder_from_the_future_is_not_watched(kernel: Kernel, watching: HolderWatch) -> None:
    holder = kernel.runs(Process(200, started=int(kernel.uptime + 1) * TICKS))
    renews(watching, holder.text, "1", "2", "3")
    assert state(watching) == (False, False)
    kernel.uptime += 2
    watching.follow(("holder:1", 8), holder.text, clock.now(), "4")
    assert state(watching) == (True, False), "it has started by now"


@given(st.integers(-(10**14), 10**14), st.integers(-(10**14), 10**14))
@example(BOOTED, BOOTED + 1000)
@example(BOOTED, BOOTED + 1001)
def test_s23_one_boot_has_one_boot_id_and_one_wall_time(mine: int, other: int) -> None:
    me = Process(100).identity._replace(booted=mine)
    assert same_boot(me, me._replace(booted=other, namespace="4:1", pid=200, started=1, inode=1)) is (
        abs(mine - other) <= 1000
    )
    assert not same_boot(me, me._replace(boot="00000000-49b4-42d0-a925-88f5ef7b5d09"))


def test_s23_the_wall_time_of_boot_is_the_same_at_any_time(kernel: Kernel) -> None:
    """It changes with the wall clock alone."""
    assert boot_time() == BOOTED
    kernel.uptime += 12345.6
    me = pidfd.own()
    assert me
    assert (me.booted, boot_time()) == (BOOTED, BOOTED)
    kernel.booted -= 5
    assert boot_time() == BOOTED - 5000


@pytest.mark.parametrize("change", [{"boot": "00000000-49b4-42d0-a925-88f5ef7b5d09"}, {"namespace": "4:4026531999"}])
def test_s23_elsewhere_neither_a_process_nor_its_absence_means_anything(
    kernel: Kernel, watching: HolderWatch, change: dict[str, Any]
) -> None:
    there = kernel.runs(Process(200)).identity._replace(**change)
    for text in (there.to_text(), there._replace(pid=300).to_text()):
        renews(watching, text, "1", "2", "3")
        assert state(watching) == (False, False)


def test_this_process_is_never_watched(kernel: Kernel, watching: HolderWatch) -> None:
    me = pidfd.own()
    assert me == kernel.me.identity
    for text in (me.to_text(), me._replace(started=1).to_text(), me._replace(inode=1).to_text()):
        renews(watching, text, "1", "2", "3")
        assert state(watching) == (False, False)


ERRORS = ["ENOSYS", "EPERM", "EACCES", "EINVAL", "ENOENT", "ENODEV", "ENOMEM", "EMFILE", "ENFILE"]


@pytest.mark.parametrize("name", ERRORS)
def test_s24_any_other_error_proves_nothing_and_is_tried_again(
    kernel: Kernel, watching: HolderWatch, name: str
) -> None:
    holder = kernel.runs(Process(200))
    kernel.refused[200] = getattr(errno, name)
    renews(watching, holder.text, "1", "2", "3")
    assert state(watching) == (False, False)
    del kernel.refused[200]
    renews(watching, holder.text, "4", "5", "6")
    assert state(watching) == (True, False)


@pytest.mark.parametrize("name", [*ERRORS, "ESRCH"])
def test_s24_where_pidfds_are_denied_nothing_is_proved_and_the_reason_is_told(
    kernel: Kernel, watching: HolderWatch, name: str
) -> None:
    kernel.refused = {kernel.me.pid: getattr(errno, name), 200: errno.ESRCH}
    assert pidfd.own() is None
    assert "pidfd_open" in pidfd.unsupported()
    renews(watching, Process(200).text, "1", "2", "3")
    assert state(watching) == (False, False)


@pytest.mark.parametrize("limit", range(4))
def test_s24_without_descriptors_it_waits_for_the_next_answer(
    kernel: Kernel, watching: HolderWatch, limit: int
) -> None:
    holder = kernel.runs(Process(200))
    kernel.limit = limit
    renews(watching, holder.text, "1")
    assert watching.dead() is None
    kernel.limit = 1000
    renews(watching, holder.text, "2", "3", "4")
    kernel.ends(holder)
    assert watching.dead() == TERM


@pytest.mark.parametrize("missing", ["/proc", "/proc/sys", "/proc/self", "/proc/thread-self/ns"])
def test_s24_without_proc_nothing_is_proved_and_the_reason_is_told(
    kernel: Kernel, watching: HolderWatch, missing: str
) -> None:
    kernel.missing = missing
    assert pidfd.own() is None
    assert missing in pidfd.unsupported()
    renews(watching, Process(200).text, "1", "2", "3")
    assert state(watching) == (False, False)


@pytest.mark.parametrize(("module", "name"), [("os", "pidfd_open"), ("select", "poll")])
def test_where_python_lacks_what_is_needed_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, watching: HolderWatch, module: str, name: str
) -> None:
    monkeypatch.delattr(f"{module}.{name}", raising=False)
    assert pidfd.own() is None
    assert name in pidfd.unsupported()
    renews(watching, Process(200).text, "1", "2", "3")
    assert state(watching) == (False, False)


def test_where_deaths_can_be_proved_there_is_no_reason(kernel: Kernel) -> None:
    assert pidfd.unsupported() == ""


def test_a_new_term_replaces_the_old_one(kernel: Kernel, watching: HolderWatch) -> None:
    first, second = kernel.runs(Process(200)), kernel.runs(Process(201, 6000, 70002 if kernel.pidfs else 0))
    renews(watching, first.text, "1", "2", "3")
    for _ in range(3):
        watching.follow(("holder:2", 8), second.text, clock.now(), "4")
    assert len(kernel.descriptors) == 1
    kernel.ends(first)
    assert watching.dead() is None
    kernel.ends(second, reaped=False)
    assert watching.dead() is None or kernel.pidfs, "what the first one renewed does not count for the second"


def test_a_proof_is_forgotten_when_another_leads(kernel: Kernel, watching: HolderWatch) -> None:
    holder = kernel.runs(Process(200))
    renews(watching, holder.text, "1", "2", "3")
    kernel.ends(holder)
    assert watching.dead() == TERM
    watching.follow(("holder:2", 8), "", clock.now(), "2")
    assert state(watching) == (False, False)


def test_a_holder_that_no_longer_publishes_is_no_longer_watched(kernel: Kernel, watching: HolderWatch) -> None:
    holder = kernel.runs(Process(200))
    renews(watching, holder.text, "1", "2", "3")
    renews(watching, "", "4")
    kernel.ends(holder)
    assert state(watching) == (False, False)


@pytest.mark.parametrize("thing", ["socket", "eventfd", Process(300, inode=9, ended=True)])
def test_s24_a_number_that_became_something_else_proves_nothing(
    kernel: Kernel, watching: HolderWatch, thing: object
) -> None:
    holder = kernel.runs(Process(200))
    renews(watching, holder.text, "1", "2", "3")
    assert watching.fd is not None
    kernel.descriptors[watching.fd] = thing
    assert state(watching) == (False, False)
    if kernel.pidfs or thing == "socket":
        assert list(kernel.descriptors.values()) == [thing], "and is not ours to close"
    kernel.descriptors.clear()
    kernel.ends(holder)
    renews(watching, holder.text, "4")
    assert watching.dead() == TERM, "the next answer finds that the process is gone"


@given(st.text())
@example("")
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 200 5000 70001")  # as versions before this one did
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 0 5000 70001 1700000000000")
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 99999999999 5000 70001 1700000000000")
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 -5 5000 70001 1700000000000")
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 200 5000 70001 1700000000000\n")
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 200 5000 70001 17000000000000000")
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 200 5000 70001 1700000000000.5")
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 \u0662\u0660\u0660 5000 70001 1700000000000")
def test_garbage_is_nobody(text: str) -> None:
    assert Identity.from_text(text) is None
    watching = HolderWatch()
    renews(watching, text, "1", "2", "3")
    assert state(watching) == (False, False)


@given(st.uuids(), numbers, numbers, st.integers(1, 2**22), numbers, numbers, st.integers(-(10**15) + 1, 10**15 - 1))
def test_an_identity_is_what_its_text_says(
    boot: object, device: int, inode: int, pid: int, started: int, pidfs: int, booted: int
) -> None:
    identity = Identity(str(boot), f"{device}:{inode}", pid, started, pidfs, booted)
    assert Identity.from_text(identity.to_text()) == identity


def test_a_descriptor_is_closed_though_no_other_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one would be needed to find out what it is."""
    kernel, asked = Kernel(pidfs=True), list[int]()
    kernel.install(monkeypatch)
    leader, real = kernel.runs(Process(200)), kernel.eventfd

    def eventfd(value: int) -> int:
        asked.append(value)
        if len(asked) > 1:  # the first is to tell what we are ourselves
            raise OSError(errno.EMFILE, "too many open files")
        return real(value)

    monkeypatch.setattr(kernel, "eventfd", eventfd)
    watch = HolderWatch()
    watch.follow(("a", 1), leader.text, 0.0, "v")
    assert (watch.fd, kernel.descriptors) == (None, {})


def test_s12_the_clocks_of_a_host_name_its_boot_where_the_system_tells(kernel: Kernel) -> None:
    assert pidfd.clocks().boot == kernel.me.identity.boot
    kernel.missing = "/proc"
    assert pidfd.clocks().boot == ""
