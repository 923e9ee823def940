"""What is a proof of death and what is not, with the answers of an invented kernel."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_leader import process
from django_leader.clock import now
from django_leader.process import HolderWatch, Identity
from tests.support.invented_kernel import Kernel, Process

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
        watching.follow(TERM, text, now(), version)


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
    assert state(watching) == (False, True), "but there is no such process any more"


def test_s24_without_pidfs_an_answer_that_was_asked_for_before_is_no_renewal(
    old: Kernel, watching: HolderWatch
) -> None:
    holder = old.runs(Process(200))
    before = now()
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


def test_s24_a_process_that_does_not_exist_is_dead(kernel: Kernel, watching: HolderWatch) -> None:
    renews(watching, Process(200).text, "1")
    assert state(watching) == (False, True)


@pytest.mark.parametrize("change", [{"boot": "00000000-49b4-42d0-a925-88f5ef7b5d09"}, {"namespace": "4:4026531999"}])
def test_s23_elsewhere_neither_a_process_nor_its_absence_means_anything(
    kernel: Kernel, watching: HolderWatch, change: dict[str, Any]
) -> None:
    there = kernel.runs(Process(200)).identity._replace(**change)
    for text in (there.to_text(), there._replace(pid=300).to_text()):
        renews(watching, text, "1", "2", "3")
        assert state(watching) == (False, False)


def test_this_process_is_never_watched(kernel: Kernel, watching: HolderWatch) -> None:
    me = process.own()
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
    assert process.own() is None
    assert "pidfd_open" in process.unsupported()
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
    assert process.own() is None
    assert missing in process.unsupported()
    renews(watching, Process(200).text, "1", "2", "3")
    assert state(watching) == (False, False)


@pytest.mark.parametrize(("module", "name"), [("os", "pidfd_open"), ("select", "poll")])
def test_where_python_lacks_what_is_needed_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, watching: HolderWatch, module: str, name: str
) -> None:
    monkeypatch.delattr(f"{module}.{name}", raising=False)
    assert process.own() is None
    assert name in process.unsupported()
    renews(watching, Process(200).text, "1", "2", "3")
    assert state(watching) == (False, False)


def test_where_deaths_can_be_proved_there_is_no_reason(kernel: Kernel) -> None:
    assert process.unsupported() == ""


def test_a_new_term_replaces_the_old_one(kernel: Kernel, watching: HolderWatch) -> None:
    first, second = kernel.runs(Process(200)), kernel.runs(Process(201, 6000, 70002 if kernel.pidfs else 0))
    renews(watching, first.text, "1", "2", "3")
    for _ in range(3):
        watching.follow(("holder:2", 8), second.text, now(), "4")
    assert len(kernel.descriptors) == 1
    kernel.ends(first)
    assert watching.dead() is None
    kernel.ends(second, reaped=False)
    assert watching.dead() is None or kernel.pidfs, "what the first one renewed does not count for the second"


def test_a_proof_is_forgotten_when_another_leads(kernel: Kernel, watching: HolderWatch) -> None:
    renews(watching, Process(200).text, "1")
    assert watching.dead() == TERM
    watching.follow(("holder:2", 8), "", now(), "2")
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


@given(st.text())
@example("")
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 0 5000 70001")
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 99999999999 5000 70001")
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 -5 5000 70001")
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 200 5000 70001\n")
@example("37206924-49b4-42d0-a925-88f5ef7b5d09 4:4026531836 \u0662\u0660\u0660 5000 70001")
def test_garbage_is_nobody(text: str) -> None:
    assert Identity.from_text(text) is None
    watching = HolderWatch()
    renews(watching, text, "1", "2", "3")
    assert state(watching) == (False, False)


@given(st.uuids(), numbers, numbers, st.integers(1, 2**22), numbers, numbers)
def test_an_identity_is_what_its_text_says(
    boot: object, device: int, inode: int, pid: int, started: int, pidfs: int
) -> None:
    identity = Identity(str(boot), f"{device}:{inode}", pid, started, pidfs)
    assert Identity.from_text(identity.to_text()) == identity


def test_a_descriptor_is_closed_though_none_is_left_to_tell_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
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
