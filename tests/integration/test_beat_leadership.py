"""Two schedulers in one process on a real Redis: only the leader reports."""

import collections
import datetime as dt
from collections.abc import Callable

import pytest

from jobworker.transport import keys
from jobworker.transport.beat import Scheduler, entry_format
from jobworker.transport.beat.scheduler import ScheduleSnapshot
from tests.integration.test_beat import EVERY_10_MINUTES, HOURLY, MINUTE, BeatSchedule, make_scheduler

pytestmark = pytest.mark.every_redis


@pytest.fixture
def other_beat(redis_url: str) -> Scheduler:
    return make_scheduler(redis_url)


def interrupt_tick(beat: Scheduler, meanwhile: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt `beat` once between reading and reporting, as SIGSTOP would, and call `meanwhile`."""
    report = beat._report_due

    def late(reading: ScheduleSnapshot) -> list[dt.datetime]:
        monkeypatch.setattr(beat, "_report_due", report)
        meanwhile()
        return report(reading)

    monkeypatch.setattr(beat, "_report_due", late)


def test_only_the_leader_reports(beat: Scheduler, other_beat: Scheduler, schedule: BeatSchedule) -> None:
    beat.tick()
    schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)

    assert other_beat.tick() == other_beat.max_interval
    assert schedule.list_reported() == []
    beat.tick()
    assert len(schedule.list_reported()) == 1
    said = schedule.client.hgetall(keys.BEAT)
    assert said["leader"] == beat.name
    assert int(said["tick_ms"]) >= schedule.now.timestamp() * 1000 - 1
    assert 0 < schedule.client.pttl(keys.BEAT) <= beat.lock_timeout * 1000


def test_closed_leader_hands_over_at_once(beat: Scheduler, other_beat: Scheduler, schedule: BeatSchedule) -> None:
    beat.tick()
    other_beat.tick()
    beat.close()
    beat.close()
    other_beat.tick()
    assert schedule.client.hget(keys.BEAT, "leader") == other_beat.name
    # A beat that never led, or led long ago, does not delete the leader's lock.
    beat.close()
    assert schedule.client.exists(beat.leader_key)


def test_stopped_leader_that_resumes_reports_nothing_twice(
    beat: Scheduler, other_beat: Scheduler, schedule: BeatSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        schedule.add_entry(f"s{number}", HOURLY, schedule.now - MINUTE)
    late = ("late", schedule.now - MINUTE)

    def lock_expires_and_the_other_leads() -> None:
        schedule.client.delete(beat.leader_key)
        other_beat.tick()
        # Due and not reported yet: here the token must fence the first leader, because the scores cannot.
        schedule.add_entry("late", HOURLY, late[1])

    interrupt_tick(beat, lock_expires_and_the_other_leads, monkeypatch)
    beat.tick()
    assert len(schedule.list_reported()) == 50
    other_beat.tick()
    counted = collections.Counter(schedule.list_reported())
    assert len(counted) == 51
    assert set(counted.values()) == {1}


def test_stopped_leader_that_resumes_without_lock_reports_nothing(
    beat: Scheduler, other_beat: Scheduler, schedule: BeatSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock_changes_hands() -> None:
        schedule.client.set(beat.leader_key, "somebody else", px=60_000)

    schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)
    schedule.client.zadd(entry_format.SCHEDULE_KEY, {"redbeat:poison": 1})
    interrupt_tick(beat, lock_changes_hands, monkeypatch)
    beat.tick()
    assert schedule.list_reported() == []
    assert schedule.list_quarantined() == {}
    assert schedule.get_next_time("s1") == schedule.now - MINUTE


@pytest.mark.parametrize("changed_part", ["score", "rule", "removed"])
def test_entry_changed_while_it_is_read_is_not_reported(
    beat: Scheduler, schedule: BeatSchedule, monkeypatch: pytest.MonkeyPatch, changed_part: str
) -> None:
    nominal = schedule.now - MINUTE
    tomorrow = schedule.now + dt.timedelta(days=1)

    def change() -> None:
        if changed_part == "score":
            schedule.add_entry("s1", HOURLY, tomorrow)
        elif changed_part == "rule":
            schedule.add_entry("s1", EVERY_10_MINUTES, nominal)
        else:
            schedule.client.zrem(entry_format.SCHEDULE_KEY, entry_format.build_entry_key("s1"))

    schedule.add_entry("s1", HOURLY, nominal)
    interrupt_tick(beat, change, monkeypatch)
    beat.tick()

    assert schedule.list_reported() == []
    assert schedule.get_next_time("s1") == {"score": tomorrow, "rule": nominal, "removed": None}[changed_part]


def test_lost_lock_is_acquired_again(beat: Scheduler, schedule: BeatSchedule) -> None:
    beat.tick()
    schedule.client.delete(beat.leader_key)
    schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)
    beat.tick()
    assert len(schedule.list_reported()) == 1


def test_lock_without_expiry_gets_an_expiry(beat: Scheduler, schedule: BeatSchedule) -> None:
    schedule.client.set(beat.leader_key, "by hand")
    beat.tick()
    assert 0 < schedule.client.pttl(beat.leader_key) <= beat.lock_timeout * 1000


@pytest.mark.parametrize(("interval", "lock"), [(60, 15), (1, 4.9), (300, 1499)])
def test_lock_timeout_below_five_intervals_is_rejected(redis_url: str, interval: float, lock: float) -> None:
    with pytest.raises(SystemExit, match="error: redbeat_lock_timeout") as refused:
        make_scheduler(redis_url, beat_max_loop_interval=interval, redbeat_lock_timeout=lock)
    assert f"at least {5 * interval} s" in str(refused.value)


def test_default_lock_timeout_replaces_a_dead_leader_within_30_seconds(beat: Scheduler, schedule: BeatSchedule) -> None:
    beat.tick()
    # The leader dies right after a tick; the standby checks just before the lock expires, and once more.
    assert schedule.client.pttl(beat.leader_key) / 1000 + beat.max_interval <= 30
