"""Scheduler in one process on a real Redis, tick by tick: it reports due entries once."""

import datetime as dt
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import Celery

from jobworker.domain.executions import events
from jobworker.domain.schedules import schedule as schedules
from jobworker.domain.schedules import timetable
from jobworker.settings import Settings
from jobworker.transport import keys
from jobworker.transport.beat import Scheduler, entry_format
from jobworker.transport.beat.scheduler import BATCH_SIZE
from jobworker.transport.celery_settings import build_celery_settings

pytestmark = pytest.mark.every_redis

#: Hourly rule, five minutes before these modules were collected, so that a test run does not meet the next occurrence.
HOURLY = {"kind": "cron", "expression": f"{(dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)).minute} * * * *"}
EVERY_10_MINUTES = {"kind": "interval", "every": 600}
MINUTE = dt.timedelta(minutes=1)


def make_spec(rule: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the stored form of a schedule."""
    return schedules.parse({"name": "nightly", "job": "job", "rule": rule, **fields}).to_json()


def compute_next_time(rule: Mapping[str, Any], moment: dt.datetime) -> dt.datetime | None:
    """Return the next due time of a schedule with this rule, in UTC."""
    return timetable.find_next_time(schedules.parse(make_spec(rule)).build_timetable({}), moment)


def make_scheduler(url: str, **conf: Any) -> Scheduler:
    app = Celery("test", set_as_current=False)
    app.conf.update(build_celery_settings(Settings.from_environment({"JOBWORKER_REDIS_URL": url})))
    app.conf.update(conf)
    return Scheduler(app)


@dataclass
class BeatSchedule:
    """Reader and writer of the schedule in Redis."""

    client: Any  # redis-py's annotations allow for every kind of client at once.
    now: dt.datetime = field(init=False)

    def __post_init__(self) -> None:
        seconds, microseconds = self.client.time()
        self.now = dt.datetime.fromtimestamp(seconds, dt.UTC) + dt.timedelta(microseconds=microseconds)

    def add_entry(self, schedule_id: str, rule: dict[str, Any], due: dt.datetime) -> None:
        key = entry_format.build_entry_key(schedule_id)
        self.client.hset(
            key, entry_format.DEFINITION_FIELD, entry_format.encode_definition(schedule_id, make_spec(rule))
        )
        self.client.zadd(entry_format.SCHEDULE_KEY, {key: entry_format.to_score(due)})

    def get_next_time(self, schedule_id: str) -> dt.datetime | None:
        score = self.client.zscore(entry_format.SCHEDULE_KEY, entry_format.build_entry_key(schedule_id))
        return None if score is None else entry_format.from_score(repr(score))

    def list_reported(self) -> list[tuple[str, dt.datetime]]:
        due_events = [events.decode(stream_id, fields) for stream_id, fields in self.client.xrange(keys.EVENTS)]
        assert all(event.kind is events.EventKind.DUE for event in due_events)
        return [(event.data["schedule"], dt.datetime.fromisoformat(event.data["at"])) for event in due_events]

    def list_quarantined(self) -> dict[str, str]:
        records = self.client.hgetall(keys.BEAT_QUARANTINE)
        return {key: json.loads(record)["reason"] for key, record in records.items()}


def put_foreign_value(client: Any, key: str, kind: str) -> None:
    """Write a foreign value of this type to a key of JobWorker."""
    client.delete(key)
    if kind == "text":
        client.set(key, "something")
    elif kind == "list":
        client.rpush(key, "something")
    else:
        client.hset(key, "field", "something")


@pytest.mark.parametrize("rule", [HOURLY, EVERY_10_MINUTES])
def test_due_entry_is_reported_once_with_its_nominal_time(
    beat: Scheduler, schedule: BeatSchedule, rule: dict[str, Any]
) -> None:
    nominal = schedule.now - MINUTE
    schedule.add_entry("s1", rule, nominal)

    beat.tick()
    beat.tick()

    assert schedule.list_reported() == [("s1", nominal)]
    assert schedule.get_next_time("s1") == compute_next_time(rule, schedule.now)


def test_nominal_times_keep_their_microseconds(beat: Scheduler, schedule: BeatSchedule) -> None:
    nominal = schedule.now.replace(microsecond=123457) - MINUTE
    schedule.add_entry("s1", HOURLY, nominal)
    beat.tick()
    assert schedule.list_reported() == [("s1", nominal)]


def test_missed_occurrences_are_reported_once_with_the_oldest_time(beat: Scheduler, schedule: BeatSchedule) -> None:
    oldest = schedule.now - dt.timedelta(hours=5)
    schedule.add_entry("s1", EVERY_10_MINUTES, oldest)

    for _ in range(3):
        beat.tick()

    assert schedule.list_reported() == [("s1", oldest)]
    following = schedule.get_next_time("s1")
    assert following is not None
    assert following > schedule.now


def test_entry_not_yet_due_is_unchanged_and_bounds_the_sleep(beat: Scheduler, schedule: BeatSchedule) -> None:
    soon = schedule.now + dt.timedelta(seconds=1.5)
    schedule.add_entry("s1", EVERY_10_MINUTES, soon)

    assert 0 < beat.tick() <= 1.5
    assert schedule.list_reported() == []
    assert schedule.get_next_time("s1") == soon


def test_next_time_of_a_reported_entry_bounds_the_sleep(beat: Scheduler, schedule: BeatSchedule) -> None:
    beat.max_interval = 5
    schedule.add_entry("s1", {"kind": "interval", "every": 1}, schedule.now - 60 * MINUTE)
    assert 0 < beat.tick() <= 1


def test_entry_without_another_occurrence_is_removed(beat: Scheduler, schedule: BeatSchedule) -> None:
    nominal = schedule.now - MINUTE
    schedule.add_entry("s1", {"kind": "once", "at": nominal.isoformat()}, nominal)

    beat.tick()

    assert schedule.get_next_time("s1") is None
    assert len(schedule.list_reported()) == 1


@pytest.mark.parametrize("ahead", [dt.timedelta(days=2), -dt.timedelta(days=2)])
def test_due_times_follow_the_clock_of_redis(
    schedule: BeatSchedule, redis_url: str, monkeypatch: pytest.MonkeyPatch, ahead: dt.timedelta
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead.total_seconds())
    beat = make_scheduler(redis_url)
    beat.app.now = lambda: dt.datetime.fromtimestamp(time.time(), dt.UTC)
    due, early = schedule.now - MINUTE, schedule.now + 60 * MINUTE
    schedule.add_entry("due", HOURLY, due)
    schedule.add_entry("early", HOURLY, early)
    beat.tick()
    assert schedule.list_reported() == [("due", due)]
    assert schedule.get_next_time("due") == compute_next_time(HOURLY, schedule.now)
    assert schedule.get_next_time("early") == early


def test_next_time_of_entries_with_one_rule_is_computed_once(
    beat: Scheduler, schedule: BeatSchedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: list[dt.datetime] = []

    def note(table: timetable.Timetable, moment: dt.datetime) -> dt.datetime | None:
        moments.append(moment)
        return real(table, moment)

    real = timetable.find_next_time
    daily = {"kind": "daily", "time": "03:00"}
    following = compute_next_time(daily, schedule.now)
    monkeypatch.setattr(timetable, "find_next_time", note)
    for number in range(3 * BATCH_SIZE):
        schedule.add_entry(f"s{number}", daily, schedule.now - MINUTE)
    for _ in range(4):
        beat.tick()
    assert len(schedule.list_reported()) == 3 * BATCH_SIZE
    assert {schedule.get_next_time(f"s{number}") for number in range(3 * BATCH_SIZE)} == {following}
    assert len(moments) <= 1


def test_large_backlog_is_reported_in_batches(beat: Scheduler, schedule: BeatSchedule) -> None:
    for number in range(BATCH_SIZE + 1):
        schedule.add_entry(f"s{number}", HOURLY, schedule.now - MINUTE)

    assert beat.tick() == 0
    assert len(schedule.list_reported()) == BATCH_SIZE
    assert beat.tick() > 0
    assert len(set(schedule.list_reported())) == BATCH_SIZE + 1


def test_report_waits_while_the_relay_is_behind(beat: Scheduler, schedule: BeatSchedule) -> None:
    oldest = schedule.now - dt.timedelta(hours=5)
    schedule.add_entry("s1", EVERY_10_MINUTES, oldest)
    fill = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'kind', 'log') end"
    schedule.client.eval(fill, 1, keys.EVENTS, 100_001)
    for _ in range(3):
        assert beat.tick() > 0
    assert schedule.client.xlen(keys.EVENTS) == 100_001
    schedule.client.delete(keys.EVENTS)
    for _ in range(3):
        beat.tick()
    assert schedule.list_reported() == [("s1", oldest)]


def test_celeryconfig_entries_are_rejected_by_name(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    beat = make_scheduler(redis_url, beat_schedule={"mine": {"task": "t", "schedule": 60}})
    assert "mine" in "".join(capsys.readouterr())
    assert beat.tick() == beat.max_interval


def test_changed_key_prefix_is_rejected(redis_url: str) -> None:
    with pytest.raises(SystemExit, match="error: redbeat_key_prefix"):
        make_scheduler(redis_url, redbeat_key_prefix="other:")


def test_redbeat_entry_reads_and_saves_an_entry_unchanged(beat: Scheduler, schedule: BeatSchedule) -> None:
    schedule.add_entry("s1", HOURLY, schedule.now + MINUTE)
    key = entry_format.build_entry_key("s1")
    before = schedule.client.hget(key, entry_format.DEFINITION_FIELD)

    entry = beat.Entry.from_key(key, app=beat.app)
    assert (entry.name, entry.task) == ("s1", "job")
    assert entry.schedule.timetable_json == {"rule": make_spec(HOURLY)["rule"], "zone": "UTC"}
    is_due, seconds = entry.schedule.is_due(schedule.now)
    assert not is_due
    assert 0 < seconds <= 3600
    entry.save()

    assert schedule.client.hget(key, entry_format.DEFINITION_FIELD) == before
    assert schedule.get_next_time("s1") == compute_next_time(HOURLY, schedule.now)
