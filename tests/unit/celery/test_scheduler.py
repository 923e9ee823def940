"""``LeaderScheduler``: what is sent, with which id, and what the next leader does. No broker, no Redis, no clock."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from tests.conftest import need

need(find_spec("celery"), "celery")

from celery.beat import ScheduleEntry, Scheduler  # noqa: E402
from celery.schedules import crontab  # noqa: E402

from django_leader.celery.messages import task_id  # noqa: E402
from django_leader.celery.scheduler import LeaderScheduler  # noqa: E402
from django_leader.protocol.job_records import JobRecord  # noqa: E402
from tests.support.invented_beat import Beats, Sends, World  # noqa: E402

Patch = pytest.MonkeyPatch


def ids(world: World, *seconds: float, name: str = "tick") -> list[tuple[str, str]]:
    """What the broker has if ``name`` was sent for these instants."""
    return [(name, task_id("lock", name, world.slot(one))) for one in seconds]


def leading(monkeypatch: Patch, base: type = Sends, **schedule: Any) -> tuple[Beats, Any]:
    """A beat in its first term."""
    beats = Beats(monkeypatch, **schedule)
    beat = beats.make(monkeypatch, base)
    beats.elect(beat)
    beats.tick(beat)
    return beats, beat


def successor(beats: Beats, monkeypatch: Patch, **attributes: Any) -> Any:
    """Another beat, which leads from now on."""
    beat = beats.make(monkeypatch, **attributes)
    beats.elect(beat)
    return beat


def test_an_entry_is_sent_at_each_instant_with_an_id_of_it(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    for _ in range(21):
        beats.tick(beat, 1.0)
    assert beats.world.sent == ids(beats.world, 10, 20)
    assert beats.world.marked == [("tick", beats.world.slot(one)) for one in (10, 20)]
    assert beats.world.records["tick"].outcome == "ok"


def test_a_late_tick_moves_no_instant(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    beats.tick(beat, 13.0)
    beats.tick(beat, 7.0)
    assert beats.world.sent == ids(beats.world, 10, 20)


def test_what_came_due_meanwhile_is_sent_once_for_now(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    beats.tick(beat, 35.0)
    assert beats.world.sent == ids(beats.world, 35)
    assert beats.world.claims == [("tick", beats.world.slot(35), beats.world.slot(35) - 1)]


def test_a_follower_waits_for_a_second_and_reads_no_store(monkeypatch: Patch) -> None:
    def refuse(self: Any) -> None:
        raise AssertionError("a follower sets the schedule up")

    beats = Beats(monkeypatch, tick=1.0)
    beat = beats.make(monkeypatch, type("Refuses", (Sends,), {"setup_schedule": refuse}))
    assert beat.tick() == 0.0
    assert beat._leadership.waited == [1.0]
    beat.sync()
    assert (beat.saved, beat.should_sync(), beats.world.sent) == (0, False, [])


def test_a_tick_lasts_for_a_second_at_most(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=100.0)
    assert beat.tick() == 1.0
    beats.tick(beat, 99.0)
    assert beats.world.sent == []
    beats.tick(beat, 1.0)
    assert beats.world.sent == ids(beats.world, 100)


def test_a_message_that_the_broker_refuses_is_sent_later_by_one_claim(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    beats.world.broker_away = True
    for _ in range(3):
        beats.tick(beat, 10.0)
    assert "could not be sent, and is tried again" in caplog.text
    assert (beats.world.sent, beats.world.marked) == ([], [])
    beats.world.broker_away = False
    beats.tick(beat, 2.0)
    assert beats.world.sent[0] == ids(beats.world, 10)[0]
    assert [slot for _, slot, _ in beats.world.claims].count(beats.world.slot(10)) == 1


def test_an_entry_that_no_message_can_carry_is_not_tried_again(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    beats, beat = leading(monkeypatch, bad=10.0, tick=11.0)
    for _ in range(23):
        beats.tick(beat, 1.0)
    assert beats.world.sent == ids(beats.world, 11, 22)
    assert beats.world.records["bad"].outcome == "failed"
    assert caplog.text.count("no message can be made of the entry (TypeError)") == 2


def test_an_entry_that_is_not_due_makes_way_for_others(monkeypatch: Patch) -> None:
    """Its place in the heap is that of the store, and Redis has recorded a later run."""
    beats, beat = leading(monkeypatch, tick=10.0, other=12.0)
    beat._ledger._last["tick"] = beats.world.slot(1000)
    for _ in range(13):
        beats.tick(beat, 1.0)
    assert beats.world.sent == ids(beats.world, 12, name="other")


def test_what_was_not_published_is_sent_by_the_next_leader(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    beats.world.broker_away = True
    beats.tick(beat, 10.0)
    beats.world.broker_away = False
    beats.tick(successor(beats, monkeypatch), 1.0)
    assert beats.world.sent == ids(beats.world, 10)


def test_without_redis_nothing_is_sent_and_nothing_is_lost(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    beats, beat = leading(monkeypatch, tick=10.0)
    beats.world.redis_away = True
    for _ in range(12):
        beats.tick(beat, 1.0)
    assert beats.world.sent == []
    beats.world.redis_away = False
    beats.tick(beat, 1.0)
    assert beats.world.sent == ids(beats.world, 10)
    assert [line for line in caplog.messages if "Celery beat" in line][1:] == [
        "LEADER_ELECTIONS['beat']: Celery beat sends nothing: Redis is away",
        "LEADER_ELECTIONS['beat']: Celery beat can send again",
    ]


def test_a_term_begins_only_when_the_records_are_known(monkeypatch: Patch) -> None:
    beats = Beats(monkeypatch, tick=10.0)
    beat = beats.make(monkeypatch)
    beats.world.redis_away = True
    beats.elect(beat)
    assert beat.tick() == 1.0
    assert beat._ledger is None
    beats.world.redis_away = False
    beats.tick(beat, 1.0)
    beats.tick(beat, 10.0)
    assert beats.world.sent == ids(beats.world, 11)


def test_the_next_leader_goes_on_where_the_last_one_was(monkeypatch: Patch) -> None:
    """Its own memory would have the entry begin anew."""
    beats, beat = leading(monkeypatch, tick=10.0)
    beats.tick(beat, 10.0)
    following = successor(beats, monkeypatch)
    beats.tick(following, 4.0)
    assert beats.world.sent == ids(beats.world, 10)
    beats.tick(following, 6.0)
    assert beats.world.sent == ids(beats.world, 10, 20)


def test_what_came_due_while_nobody_led_is_sent(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=crontab(minute="*/5"))
    beats.tick(beat, 300.0)
    following = successor(beats, monkeypatch)
    beats.world.seconds += 10.0
    following.tick()
    assert following.schedule["tick"].total_run_count == 1, "a task that shall run once has run"
    beats.tick(following, 300.0)
    assert beats.world.sent == ids(beats.world, 300, 600)


def test_a_store_that_is_older_than_redis_sends_nothing_twice(monkeypatch: Patch) -> None:
    stale = {"task": "tick", "schedule": 10.0, "last_run_at": World().now()}
    beats = Beats(monkeypatch, tick=stale)
    beats.world.records["tick"] = JobRecord(last=beats.world.slot(40), slot=beats.world.slot(40), token=9, outcome="ok")
    beat = successor(beats, monkeypatch)
    beats.tick(beat, 42.0)
    assert beats.world.sent == []
    assert beat.schedule["tick"].total_run_count == 1, "a task that shall run once has run"
    beats.tick(beat, 8.0)
    assert beats.world.sent == ids(beats.world, 50)


def test_a_store_that_is_later_than_redis_counts(monkeypatch: Patch) -> None:
    """It was enabled again, or a beat without this scheduler has sent it."""
    stored = {"task": "tick", "schedule": 10.0, "last_run_at": World().now(), "total_run_count": 3}
    beats = Beats(monkeypatch, tick=stored)
    beats.world.records["tick"] = JobRecord(last=beats.world.slot(-900), slot=beats.world.slot(-900), outcome="ok")
    beats.tick(successor(beats, monkeypatch), 5.0)
    assert beats.world.sent == []


def dies(beats: Beats, beat: Any, when: str) -> None:
    """Have ``beat`` be ended by a signal in the middle of sending."""

    def end() -> None:
        raise SystemExit

    setattr(beats.world, when, end)
    with pytest.raises(SystemExit):
        beats.tick(beat, 10.0)
    setattr(beats.world, when, lambda: None)


def test_what_is_in_doubt_is_sent_again_at_once_with_its_id(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    beats, beat = leading(monkeypatch, tick=100.0, other=10.0)
    dies(beats, beat, "before_publish")
    assert (beats.world.sent, beats.world.records["other"].outcome) == ([], "-")
    following = successor(beats, monkeypatch)
    beats.tick(following, 1.0)
    assert beats.world.sent == ids(beats.world, 10, name="other")
    assert "may not have been sent" in caplog.text
    beats.tick(following, 9.0)
    assert beats.world.sent == ids(beats.world, 10, 20, name="other")


def test_what_is_in_doubt_can_be_skipped(monkeypatch: Patch, caplog: pytest.LogCaptureFixture) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    dies(beats, beat, "before_publish")
    following = successor(beats, monkeypatch, in_doubt="skip")
    beats.tick(following, 1.0)
    beats.tick(following, 9.0)
    assert beats.world.sent == ids(beats.world, 20)
    assert caplog.text.count("may not have been sent, and is not sent again") == 1


def test_a_slot_in_the_future_is_waited_for_and_told(monkeypatch: Patch, caplog: pytest.LogCaptureFixture) -> None:
    """The clocks were ahead when it was claimed."""
    beats = Beats(monkeypatch, tick=10.0)
    later = beats.world.slot(100)
    beats.world.records["tick"] = JobRecord(last=later, slot=later, token=9, outcome="ok")
    beat = successor(beats, monkeypatch)
    for _ in range(11):
        beats.tick(beat, 10.0)
    assert beats.world.sent == ids(beats.world, 110)
    assert "'tick' is not sent before 2026-01-02 03:01:40+00:00" in caplog.text


def test_times_are_naive_where_the_scheduler_has_naive_ones(monkeypatch: Patch) -> None:
    """As django-celery-beat can be told to."""

    class Naive(ScheduleEntry):  # type: ignore[misc]
        def _default_now(self) -> Any:
            return super().default_now().replace(tzinfo=None)

    beats = Beats(monkeypatch, tick=10.0)
    beat = beats.make(monkeypatch, Entry=Naive)
    beats.elect(beat)
    beats.tick(beat)
    beats.tick(beat, 10.0)
    beats.tick(beat, 10.0)
    assert beat.schedule["tick"].last_run_at.tzinfo is None
    assert beats.world.sent == ids(beats.world, 10, 20)


def test_an_entry_in_doubt_that_was_removed_is_not_sent(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    dies(beats, beat, "before_publish")
    following = successor(beats, monkeypatch)
    beats.world.broker_away = True
    beats.tick(following, 1.0)
    assert list(following._ledger.doubted) == ["tick"]
    beats.world.broker_away = False
    del following.schedule["tick"]
    beats.tick(following, 1.0)
    assert (beats.world.sent, following._ledger.doubted) == ([], {})


def test_a_signal_while_publishing_has_the_same_id_sent_again(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    dies(beats, beat, "after_publish")
    beats.tick(successor(beats, monkeypatch), 1.0)
    assert beats.world.sent == ids(beats.world, 10) * 2


def test_a_signal_after_the_publishing_leaves_nothing_in_doubt(monkeypatch: Patch) -> None:
    def apply_entry(self: Any, entry: Any, producer: Any = None) -> None:
        Sends.apply_entry(self, entry, producer)
        raise SystemExit

    beats = Beats(monkeypatch, tick=10.0)
    beat = beats.make(monkeypatch, type("Interrupted", (Sends,), {"apply_entry": apply_entry}))
    beats.elect(beat)
    beats.tick(beat)
    with pytest.raises(SystemExit):
        beats.tick(beat, 10.0)
    beats.tick(successor(beats, monkeypatch), 1.0)
    assert beats.world.sent == ids(beats.world, 10)


def test_what_was_saved_was_sent(monkeypatch: Patch) -> None:
    """Redis has lost the mark. The store, which is saved only after the message, has the run."""
    stored = {"task": "tick", "schedule": 10.0, "last_run_at": World().now(), "total_run_count": 1}
    beats = Beats(monkeypatch, tick=stored)
    beats.world.records["tick"] = JobRecord(last=beats.world.slot(), slot=beats.world.slot(), token=9, outcome="-")
    beat = successor(beats, monkeypatch)
    beats.tick(beat)
    beats.tick(beat, 10.0)
    beats.tick(beat, 1.0)
    assert beats.world.sent == ids(beats.world, 10)


def test_a_leader_that_is_deposed_after_its_claim_sends_nothing(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    claim = beat._ledger.slots.claim

    def claim_and_lose(*args: Any) -> Any:
        found = claim(*args)
        beats.elect(None)
        return found

    beat._ledger.slots.claim = claim_and_lose
    beats.tick(beat, 10.0)
    assert beats.world.sent == []
    beats.tick(successor(beats, monkeypatch))
    assert beats.world.sent == ids(beats.world, 10)


def test_a_term_that_is_over_is_forgotten_and_not_saved(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    beats.tick(beat, 10.0)
    slots, saved = beat._ledger.slots, beat.saved
    beats.elect(None)
    beat.sync()
    beats.tick(beat, 1.0)
    assert (beat._ledger, slots.closed, beat.saved, beat.schedule) == (None, True, saved, {})


def test_close_saves_and_releases_once(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    beats.tick(beat, 10.0)
    saved = beat.saved
    beat.close()
    beat.close()
    assert (beat.saved, beat._leadership.stopped) == (saved + 1, 1)
    beats.tick(beat, 10.0)
    assert beats.world.sent == ids(beats.world, 10)


def test_close_in_a_signal_handler_leaves_the_rest_to_the_second_call(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    seen = []

    def handle() -> None:
        beat.close()
        seen.append((beat.saved, beat._leadership.stopped))
        raise SystemExit

    before = beat.saved
    beats.world.before_publish = handle
    with pytest.raises(SystemExit):
        beats.tick(beat, 10.0)
    assert seen == [(before, 0)]
    beat.close()
    assert (beat.saved, beat._leadership.stopped, beats.world.records["tick"].outcome) == (before + 1, 1, "-")


def test_close_of_a_follower_saves_nothing(monkeypatch: Patch) -> None:
    beats = Beats(monkeypatch, tick=10.0)
    beat = beats.make(monkeypatch)
    beat.tick()
    beat.close()
    assert (beat.saved, beat._leadership.stopped) == (0, 1)


def test_a_schedule_that_cannot_be_read_lets_another_process_lead(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Any) -> None:
        raise OSError("the database is away")

    beats = Beats(monkeypatch, tick=10.0)
    beat = beats.make(monkeypatch, type("Fails", (Sends,), {"setup_schedule": fail}))
    beats.elect(beat)
    assert beat.tick() == 1.0
    assert (beat._leadership.resigned, beat._ledger) == (1, None)
    assert "cannot set up its schedule" in caplog.text


def test_a_host_whose_clock_is_ahead_sends_late_and_says_so(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    beats, beat = leading(monkeypatch, tick=2.0)
    beats.world.server_ahead = -5.0
    for _ in range(16):
        beats.tick(beat, 1.0)
    assert len(beats.world.sent) >= 3
    assert [name for name, _ in beats.world.sent] == ["tick"] * len(beats.world.sent)
    assert caplog.text.count("the clock of this host is ahead") == 1


def test_a_host_whose_clock_is_behind_sends_on_its_own_time(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    beats.world.server_ahead = 3600.0
    beats.tick(beat, 10.0)
    assert beats.world.sent == ids(beats.world, 10)


@pytest.mark.parametrize("verdict", ["in-doubt", "unknown"])
def test_a_slot_that_redis_refuses_is_not_asked_for_again(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture, verdict: str
) -> None:
    caplog.set_level(logging.INFO)
    beats, beat = leading(monkeypatch, tick=10.0)
    beats.world.refused = verdict  # type: ignore[assignment]
    beats.tick(beat, 10.0)
    beats.world.refused = None
    assert beats.world.sent == []
    assert "of the job 'tick' was not run" in caplog.text
    beats.tick(beat, 10.0)
    assert beats.world.sent == ids(beats.world, 20)


def test_an_id_of_the_options_stays(monkeypatch: Patch) -> None:
    entry = {"task": "tick", "schedule": 10.0, "options": {"task_id": "mine"}}
    beats, beat = leading(monkeypatch, tick=entry)
    beats.tick(beat, 10.0)
    assert beats.world.sent == [("tick", "mine")]
    assert beat.schedule["tick"].options["task_id"] == "mine"


def test_the_options_of_an_entry_are_not_changed(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=10.0)
    beats.tick(beat, 10.0)
    assert "task_id" not in beat.schedule["tick"].options


def test_entries_that_come_later_are_looked_up_first(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=32.0)
    beats.world.records["new"] = JobRecord(last=beats.world.slot(30), slot=beats.world.slot(30), token=9, outcome="ok")
    beat.add(name="new", task="new", schedule=10.0, last_run_at=beats.world.now())
    beats.tick(beat, 32.0)
    assert beats.world.sent == ids(beats.world, 32)
    beats.tick(beat, 8.0)
    assert beats.world.sent == ids(beats.world, 32) + ids(beats.world, 40, name="new")


def test_a_shorter_period_than_a_second_is_kept(monkeypatch: Patch) -> None:
    beats, beat = leading(monkeypatch, tick=0.25)
    for _ in range(5):
        beats.tick(beat, 0.25)
    assert beats.world.sent == ids(beats.world, 0.25, 0.5, 0.75, 1.0, 1.25)


def test_a_scheduler_with_a_tick_of_its_own_is_refused(monkeypatch: Patch) -> None:
    own = type("Own", (Scheduler,), {"tick": lambda self: 1.0})
    beats = Beats(monkeypatch)
    with pytest.raises(
        TypeError, match=r"Own has a tick\(\) of its own.*guard the whole process with @leader_required"
    ):
        beats.make(monkeypatch, own)


def test_the_banner_makes_a_scheduler_that_does_nothing(monkeypatch: Patch) -> None:
    """Celery makes one more, to describe it."""
    beats = Beats(monkeypatch, tick=10.0)
    monkeypatch.undo()
    lazy = type("Lazy", (LeaderScheduler, Scheduler), {})(beats.app, lazy=True)
    assert lazy.info == ""
    lazy.close()


IMPORT = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, *args):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import django_leader.celery
assert not {{"celery", "django_celery_beat"}} & set(sys.modules)
try:
    django_leader.celery.{wanted}
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("wanted", "missing", "package"),
    [
        ("DatabaseScheduler", ["django_celery_beat"], "django-celery-beat"),
        ("DatabaseScheduler", ["celery", "django_celery_beat"], "django-celery-beat"),
        ("PersistentScheduler", ["celery"], "celery"),
        ("LeaderScheduler", ["celery"], ""),
    ],
)
def test_each_scheduler_says_what_it_needs(wanted: str, missing: list[str], package: str) -> None:
    program = IMPORT.format(wanted=wanted, missing=missing)
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert said == (package and f"django_leader.celery.{wanted} needs {package}: pip install {package}")
