"""Two schedulers in one process on a real Redis, tick by tick."""

import collections
import datetime as dt
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from celery import Celery

from jobworker.domain.executions import events
from jobworker.domain.schedules import schedule as schedules
from jobworker.domain.schedules import timetable
from jobworker.settings import Settings
from jobworker.transport import keys
from jobworker.transport.beat import Scheduler, beat_keys, entry_format
from jobworker.transport.beat.scheduler import BATCH_SIZE, ScheduleSnapshot
from jobworker.transport.celery_settings import build_celery_settings
from tests.servers import RedisServer

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


@pytest.fixture
def schedule(redis_url: str) -> Iterator[BeatSchedule]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield BeatSchedule(client)


@pytest.fixture
def beat(redis_url: str) -> Scheduler:
    return make_scheduler(redis_url)


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


MALFORMED_ENTRIES: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "not an object": b"[1, 2]",
    "deeply nested": b"[" * 200_000,
    "no schedule": b'{"name": "x"}',
    "another kind of schedule": b'{"schedule": {"__type__": "interval", "every": 60, "relative": false}}',
    "unknown rule": b'{"schedule": {"__type__": "jobworker.rule", "rule": {"rule": {"kind": "moon"}}}}',
    "no rule": b'{"schedule": {"__type__": "jobworker.rule"}}',
    "disabled": json.dumps(
        json.loads(entry_format.encode_definition("x", make_spec(HOURLY))) | {"enabled": False}
    ).encode(),
}


def test_unreadable_entry_is_quarantined_and_blocks_no_other(beat: Scheduler, schedule: BeatSchedule) -> None:
    for name, definition in MALFORMED_ENTRIES.items():
        schedule.client.hset(entry_format.build_entry_key(name), entry_format.DEFINITION_FIELD, definition)
        schedule.client.zadd(entry_format.SCHEDULE_KEY, {entry_format.build_entry_key(name): 1})
    schedule.client.set(entry_format.build_entry_key("not a hash"), "text")
    schedule.client.zadd(entry_format.SCHEDULE_KEY, {entry_format.build_entry_key("not a hash"): 1})
    schedule.client.zadd(entry_format.SCHEDULE_KEY, {entry_format.build_entry_key("missing"): 1, b"redbeat:\xff": 1})
    schedule.client.hset(
        b"redbeat:\xff", entry_format.DEFINITION_FIELD, entry_format.encode_definition("x", make_spec(HOURLY))
    )
    schedule.add_entry("good", HOURLY, schedule.now - MINUTE)

    beat.tick()

    assert [name for name, _ in schedule.list_reported()] == ["good"]
    assert schedule.client.zcard(entry_format.SCHEDULE_KEY) == 1
    with redis.Redis.from_url(beat.app.redbeat_conf.redis_url) as raw:
        quarantined_keys = {key.decode(errors="replace") for key in raw.hkeys(keys.BEAT_QUARANTINE)}
        raw.hdel(keys.BEAT_QUARANTINE, b"redbeat:\xff")
    bad = {*MALFORMED_ENTRIES, "not a hash", "missing", "\ufffd"}
    assert quarantined_keys == {entry_format.build_entry_key(name) for name in bad}
    reasons = schedule.list_quarantined()
    assert "interval" in reasons[entry_format.build_entry_key("unknown rule")]
    assert reasons[entry_format.build_entry_key("missing")] == "it has no definition"
    assert "disable the job" in reasons[entry_format.build_entry_key("disabled")]


def put_foreign_value(client: Any, key: str, kind: str) -> None:
    """Write a foreign value of this type to a key of JobWorker."""
    client.delete(key)
    if kind == "text":
        client.set(key, "something")
    elif kind == "list":
        client.rpush(key, "something")
    else:
        client.hset(key, "field", "something")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (f"{entry_format.KEY_PREFIX}:lock", "hash"),
        (f"{entry_format.KEY_PREFIX}:lock", "list"),
        (keys.BEAT, "text"),
        (keys.BEAT, "list"),
        (keys.BEAT_QUARANTINE, "text"),
    ],
)
def test_key_of_another_type_is_deleted_and_beat_continues(
    beat: Scheduler, schedule: BeatSchedule, capsys: pytest.CaptureFixture[str], key: str, kind: str
) -> None:
    put_foreign_value(schedule.client, key, kind)
    schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)
    schedule.client.zadd(entry_format.SCHEDULE_KEY, {"redbeat:poison": 1})
    for _ in range(3):
        beat.tick()
    assert [name for name, _ in schedule.list_reported()] == ["s1"]
    assert schedule.client.hget(keys.BEAT, "leader") == beat.name
    assert "redbeat:poison" in schedule.list_quarantined()
    assert f"key={key}" in "".join(capsys.readouterr())


def test_schedule_key_of_another_type_is_deleted(beat: Scheduler, schedule: BeatSchedule) -> None:
    schedule.client.set(entry_format.SCHEDULE_KEY, "something")
    assert beat.tick() == 0
    assert beat.tick() == beat.max_interval
    assert not schedule.client.exists(entry_format.SCHEDULE_KEY)


def test_tick_is_repeated_after_other_redis_errors(beat: Scheduler, schedule: BeatSchedule) -> None:
    schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)
    schedule.client.set(keys.EVENTS, "something")
    assert 0 < beat.tick() < 1
    assert schedule.get_next_time("s1") == schedule.now - MINUTE


@pytest.mark.parametrize("tick", ["", "soon", "9" * 30])
def test_invalid_tick_is_ignored(schedule: BeatSchedule, tick: str) -> None:
    schedule.client.hset(keys.BEAT, "tick_ms", tick)
    assert beat_keys.get_last_tick(schedule.client) is None


def test_entry_with_an_empty_key_is_logged(
    beat: Scheduler, schedule: BeatSchedule, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule.client.zadd(entry_format.SCHEDULE_KEY, {"": 1})
    beat.tick()
    assert "entry='\"\"'" in "".join(capsys.readouterr())


def test_infinite_score_is_ignored(beat: Scheduler, schedule: BeatSchedule) -> None:
    schedule.client.zadd(entry_format.SCHEDULE_KEY, {"redbeat:never": "inf", "redbeat:parked": "-1"})
    assert beat.tick() == beat.max_interval


def test_restarted_redis_is_awaited(own_redis: Callable[..., RedisServer]) -> None:
    server = own_redis(persistent=True)
    beat = make_scheduler(server.url)
    with server.create_client() as client:
        schedule = BeatSchedule(client)
        schedule.add_entry("s1", HOURLY, schedule.now + dt.timedelta(hours=1))
    beat.tick()

    server.stop()
    pauses = [beat.tick() for _ in range(8)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert pauses[-1] <= 5
    server.start()
    with server.create_client() as client:
        schedule = BeatSchedule(client)
        schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)
        beat.tick()
        assert schedule.list_reported() == [("s1", schedule.now - MINUTE)]


def test_dropped_connections_are_reopened(beat: Scheduler, schedule: BeatSchedule) -> None:
    beat.tick()
    schedule.client.client_kill_filter(_type="normal", skipme=True)
    schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)
    beat.tick()
    assert len(schedule.list_reported()) == 1


def test_full_redis_loses_no_occurrence(own_redis: Callable[..., RedisServer]) -> None:
    server = own_redis()
    beat = make_scheduler(server.url)
    with server.create_client() as client:
        schedule = BeatSchedule(client)
        schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)
        beat.tick()
        schedule.add_entry("s2", HOURLY, schedule.now - MINUTE)
        client.config_set("maxmemory", 1)
        beat.tick()
        client.config_set("maxmemory", 0)
        assert schedule.get_next_time("s2") == schedule.now - MINUTE
        beat.tick()
        assert [name for name, _ in schedule.list_reported()] == ["s1", "s2"]


def test_celeryconfig_entries_are_rejected_by_name(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    beat = make_scheduler(redis_url, beat_schedule={"mine": {"task": "t", "schedule": 60}})
    assert "mine" in "".join(capsys.readouterr())
    assert beat.tick() == beat.max_interval


def test_changed_key_prefix_is_rejected(redis_url: str) -> None:
    with pytest.raises(SystemExit, match="error: redbeat_key_prefix"):
        make_scheduler(redis_url, redbeat_key_prefix="other:")


@pytest.mark.parametrize(("interval", "lock"), [(60, 15), (1, 4.9), (300, 1499)])
def test_lock_timeout_below_five_intervals_is_rejected(redis_url: str, interval: float, lock: float) -> None:
    with pytest.raises(SystemExit, match="error: redbeat_lock_timeout") as refused:
        make_scheduler(redis_url, beat_max_loop_interval=interval, redbeat_lock_timeout=lock)
    assert f"at least {5 * interval} s" in str(refused.value)


def test_default_lock_timeout_replaces_a_dead_leader_within_30_seconds(beat: Scheduler, schedule: BeatSchedule) -> None:
    beat.tick()
    # The leader dies right after a tick; the standby checks just before the lock expires, and once more.
    assert schedule.client.pttl(beat.leader_key) / 1000 + beat.max_interval <= 30


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
