"""Synchronization of schedules from SQL to the entries of beat."""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from jobworker.clock import ManualClock
from jobworker.domain.calendars.calendars import BusinessCalendar, DateCalendar
from jobworker.domain.jobs.definition import JobOwner as CalendarOwner
from jobworker.domain.schedules import schedule as schedules
from jobworker.domain.schedules.schedule import ScheduleOwner
from jobworker.relay import beat_sync
from jobworker.relay.beat_sync import BeatSynchronizer
from jobworker.store.calendars import calendar_rows
from jobworker.store.database.database import Database
from jobworker.store.schedules import schedule_rows
from jobworker.store.tables import core
from jobworker.store.tables.schedules import job_schedules
from jobworker.transport import keys
from jobworker.transport.beat import Scheduler, entry_format
from jobworker.transport.beat.projection import Projection
from tests.integration.test_beat import (
    EVERY_10_MINUTES,
    HOURLY,
    BeatSchedule,
    compute_next_time,
    make_scheduler,
    make_spec,
)

pytestmark = pytest.mark.every_redis

HOUR = dt.timedelta(hours=1)
SECOND = dt.timedelta(seconds=1)

#: Time in which the relay compares all entries (s), with a margin.
FULL_SWEEP_SECONDS = 60.0


@dataclass
class BeatSyncDriver:
    """Projector of a relay with its clock, the database that it reads, and the Redis that it writes."""

    database: Database
    beat_schedule: BeatSchedule
    clock: ManualClock
    projector: BeatSynchronizer

    @property
    def now(self) -> dt.datetime:
        return self.beat_schedule.now

    def put_schedule(self, name: str, rule: Mapping[str, Any], settled: dt.datetime, **fields: Any) -> str:
        """Create or change a schedule whose occurrences up to `settled` are recorded; return its id."""
        with self.database.write() as connection:
            spec = schedules.parse(make_spec(rule, **{"name": name, **fields}))
            row = schedule_rows.upsert(
                connection, spec, ScheduleOwner.API, "ann", self.clock.now(), compute_next_time(rule, settled)
            )
            return row.id

    def put_hourly_schedules(self, count: int, settled: dt.datetime) -> list[str]:
        """Insert hourly schedules that were created long ago, all at one time; return their ids."""
        with self.database.write() as connection:
            common = {
                "owner": "api",
                "revision": 1,
                "enabled": True,
                "state": "active",
                "settled_until": settled,
                "next_at": compute_next_time(HOURLY, settled),
                "runs": 0,
                "failures": 0,
                "created_at": self.now - 24 * HOUR,
                "changed_at": self.now - 24 * HOUR,
            }
            rows: list[dict[str, Any]] = [
                {"id": f"id-{n:05}", "name": f"s{n}", "job": "job", "spec": make_spec(HOURLY, name=f"s{n}"), **common}
                for n in range(count)
            ]
            connection.execute(job_schedules.insert(), rows)
        return [row["id"] for row in rows]

    def update_schedule(self, schedule_id: str, **values: Any) -> None:
        with self.database.write() as connection:
            connection.execute(sa.update(job_schedules).where(job_schedules.c.id == schedule_id).values(values))

    def delete_schedule(self, schedule_id: str) -> None:
        with self.database.write() as connection:
            row = schedule_rows.get(connection, schedule_id)
            assert row is not None
            schedule_rows.delete(connection, row, "ann", self.clock.now())

    def run_for(self, seconds: float = FULL_SWEEP_SECONDS) -> None:
        """Run the projector for this time."""
        for _ in range(int(seconds)):
            self.projector.run()
            self.clock.advance(1.0)

    def count_commands(self) -> dict[str, int]:
        """Return the number of calls of each Redis command so far."""
        return {name: stat["calls"] for name, stat in self.beat_schedule.client.info("commandstats").items()}

    def get_next_time(self, schedule_id: str) -> dt.datetime | None:
        return self.beat_schedule.get_next_time(schedule_id)

    def list_entry_ids(self) -> set[str]:
        """Return the ids of all schedules with a complete entry."""
        found = set(self.beat_schedule.client.zrange(entry_format.SCHEDULE_KEY, 0, -1))
        ids = {
            key.removeprefix(entry_format.KEY_PREFIX)
            for key in found
            if self.beat_schedule.client.hexists(key, "definition")
        }
        assert set(self.beat_schedule.client.hkeys(keys.BEAT_PROJECTION)) == ids
        return ids


def create_driver(database: Database, client: redis.Redis) -> BeatSyncDriver:
    schedule = BeatSchedule(client)
    clock = ManualClock(schedule.now)
    return BeatSyncDriver(database, schedule, clock, BeatSynchronizer(database, Projection(client), clock))


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def sync_driver(sqlite_database: Database, client: redis.Redis) -> BeatSyncDriver:
    return create_driver(sqlite_database, client)


@pytest.fixture
def beat(redis_url: str) -> Scheduler:
    return make_scheduler(redis_url)


def test_new_schedule_gets_an_entry_in_the_next_round(database: Database, client: redis.Redis, redis_url: str) -> None:
    sync_driver = create_driver(database, client)
    sync_driver.run_for()
    first = sync_driver.put_schedule("nightly", HOURLY, sync_driver.clock.now(), zone="Europe/Berlin")
    sync_driver.run_for(1)
    assert sync_driver.list_entry_ids() == {first}
    assert sync_driver.get_next_time(first) == compute_next_time(HOURLY, sync_driver.clock.now())
    beat = make_scheduler(redis_url)
    entry = beat.Entry.from_key(entry_format.build_entry_key(first), app=beat.app)
    assert (entry.name, entry.task, entry.schedule.timetable_json["zone"]) == (first, "job", "Europe/Berlin")


def test_unchanged_schedules_cause_no_writes(sync_driver: BeatSyncDriver) -> None:
    sync_driver.put_hourly_schedules(100, sync_driver.now)
    sync_driver.run_for()
    before = sync_driver.count_commands()
    sync_driver.run_for()
    after = sync_driver.count_commands()
    read = {"evalsha", "hget", "zscore", "hlen", "xrange", "info"}
    assert {name.removeprefix("cmdstat_") for name in after if after[name] != before.get(name)} <= read


def test_due_occurrence_survives_a_round_and_a_relay_change(sync_driver: BeatSyncDriver, beat: Scheduler) -> None:
    nominal = compute_next_time(HOURLY, sync_driver.now - HOUR)
    due = sync_driver.put_schedule("due", HOURLY, sync_driver.now - HOUR)
    sync_driver.run_for()
    sync_driver.projector.reset()
    sync_driver.run_for()
    assert sync_driver.get_next_time(due) == nominal
    beat.tick()
    assert sync_driver.beat_schedule.list_reported() == [(due, nominal)]


@pytest.mark.parametrize("settled", [HOUR, dt.timedelta(0)])
def test_changed_schedule_continues_with_the_next_unrecorded_occurrence(
    sync_driver: BeatSyncDriver, beat: Scheduler, settled: dt.timedelta
) -> None:
    sync_driver.put_schedule("mine", HOURLY, sync_driver.now)
    sync_driver.run_for()
    changed = sync_driver.put_schedule("mine", EVERY_10_MINUTES, sync_driver.now - settled)
    sync_driver.run_for(1)
    assert sync_driver.get_next_time(changed) == compute_next_time(EVERY_10_MINUTES, sync_driver.now - settled)
    assert sync_driver.beat_schedule.list_reported() == []


@pytest.mark.parametrize("how", ["deleted", "disabled", "retired", "exhausted"])
def test_schedule_without_upcoming_occurrence_has_no_entry(sync_driver: BeatSyncDriver, how: str) -> None:
    gone, other = (
        sync_driver.put_schedule("gone", HOURLY, sync_driver.now),
        sync_driver.put_schedule("other", HOURLY, sync_driver.now),
    )
    sync_driver.run_for()
    assert sync_driver.list_entry_ids() == {gone, other}
    changes: dict[str, dict[str, Any]] = {
        "disabled": {"enabled": False},
        "retired": {"state": "retired"},
        "exhausted": {"state": "exhausted", "next_at": None},
    }
    if how == "deleted":
        sync_driver.delete_schedule(gone)
    else:
        sync_driver.update_schedule(gone, **changes[how])
    sync_driver.run_for()
    assert set(sync_driver.beat_schedule.client.keys("*")) == {
        entry_format.SCHEDULE_KEY,
        entry_format.build_entry_key(other),
        keys.BEAT_PROJECTION,
    }
    assert sync_driver.list_entry_ids() == {other}


def test_paused_schedule_keeps_its_entry(sync_driver: BeatSyncDriver) -> None:
    paused = sync_driver.put_schedule("paused", HOURLY, sync_driver.now)
    sync_driver.run_for()
    sync_driver.update_schedule(paused, paused_at=sync_driver.now, paused_by="ann", changed_at=sync_driver.clock.now())
    sync_driver.run_for()
    assert sync_driver.list_entry_ids() == {paused}


def test_round_reads_only_the_changed_schedule(sync_driver: BeatSyncDriver) -> None:
    ids = sync_driver.put_hourly_schedules(3000, sync_driver.now)
    sync_driver.run_for(3)
    sync_driver.put_schedule("s17", EVERY_10_MINUTES, sync_driver.now)
    before = sync_driver.count_commands()
    sync_driver.projector.run()
    after = sync_driver.count_commands()
    looked_at = after["cmdstat_zscore"] - before["cmdstat_zscore"]
    written = after["cmdstat_del"] - before.get("cmdstat_del", 0)
    assert (looked_at, written) == (1, 1)
    assert sync_driver.get_next_time(ids[17]) == compute_next_time(EVERY_10_MINUTES, sync_driver.now)


def test_many_changes_are_found_by_a_full_sweep(sync_driver: BeatSyncDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beat_sync, "_MAX_RECENT", 10)
    ids = sync_driver.put_hourly_schedules(50, sync_driver.now)
    sync_driver.run_for()
    with sync_driver.database.write() as connection:
        connection.execute(sa.update(job_schedules).values(revision=2, changed_at=sync_driver.clock.now()))
    sync_driver.run_for(3)
    found = sync_driver.beat_schedule.client.hvals(keys.BEAT_PROJECTION)
    assert len(found) == len(ids)
    assert all(mark.startswith("2.") for mark in found)


def test_late_committed_change_is_found(sync_driver: BeatSyncDriver) -> None:
    sync_driver.run_for()
    late = sync_driver.put_hourly_schedules(1, sync_driver.now)
    sync_driver.run_for()
    assert sync_driver.list_entry_ids() == set(late)


FIRST_DAY = {"kind": "business_day", "n": 1, "time": "06:00", "roll": "following"}


def test_entry_contains_the_calendars_of_its_rule(sync_driver: BeatSyncDriver, beat: Scheduler) -> None:
    month = sync_driver.now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + 32 * 24 * HOUR
    days = [month.date().replace(day=number) for number in range(1, 29)]
    nominal = dt.datetime.combine(days[0], dt.time(6), dt.UTC)
    # Every day is a business day, but the first is closed and the second forbidden.
    office = BusinessCalendar(weekend=frozenset(), closed={days[0]: "moving"}).to_json()
    forbidden, elsewhere = (DateCalendar({day: "stocktaking"}).to_json() for day in (days[1], days[20]))
    with sync_driver.database.write() as connection:
        calendar_rows.upsert(connection, "office", office, CalendarOwner.API, "ann", sync_driver.now)
        calendar_rows.upsert(connection, "forbidden", forbidden, CalendarOwner.API, "ann", sync_driver.now)
        spec = schedules.parse(make_spec(FIRST_DAY, name="first", calendar="office", exclude=["forbidden"]))
        row = schedule_rows.upsert(connection, spec, ScheduleOwner.API, "ann", sync_driver.clock.now(), nominal)
    sync_driver.run_for(1)
    entry = beat.Entry.from_key(entry_format.build_entry_key(row.id), app=beat.app)
    assert entry.schedule.find_next_after(nominal - 24 * HOUR) == nominal + 48 * HOUR

    with sync_driver.database.write() as connection:
        calendar_rows.upsert(connection, "forbidden", elsewhere, CalendarOwner.API, "ann", sync_driver.clock.now())
    sync_driver.run_for()
    entry = beat.Entry.from_key(entry_format.build_entry_key(row.id), app=beat.app)
    assert entry.schedule.find_next_after(nominal - 24 * HOUR) == nominal + 24 * HOUR


def test_entry_omits_calendars_without_effect_on_nominal_times(sync_driver: BeatSyncDriver) -> None:
    with sync_driver.database.write() as connection:
        calendar_rows.upsert(
            connection, "office", BusinessCalendar().to_json(), CalendarOwner.API, "ann", sync_driver.now
        )
    hourly = sync_driver.put_schedule("hourly", HOURLY, sync_driver.now, require=["office"])
    sync_driver.run_for(1)
    definition = sync_driver.beat_schedule.client.hget(
        entry_format.build_entry_key(hourly), entry_format.DEFINITION_FIELD
    )
    assert "office" not in str(definition)


def test_calendar_revision_rewrites_entries_of_its_schedules(sync_driver: BeatSyncDriver) -> None:
    with sync_driver.database.write() as connection:
        calendar_rows.upsert(
            connection, "open", BusinessCalendar().to_json(), CalendarOwner.API, "ann", sync_driver.now
        )
    named = sync_driver.put_schedule("named", HOURLY, sync_driver.now, require=["open"])
    sync_driver.run_for()
    before = sync_driver.beat_schedule.client.hget(keys.BEAT_PROJECTION, named)
    with sync_driver.database.write() as connection:
        calendar_rows.upsert(
            connection,
            "open",
            DateCalendar({sync_driver.now.date(): "fair"}).to_json(),
            CalendarOwner.API,
            "ann",
            sync_driver.now,
        )
    sync_driver.run_for()
    after = sync_driver.beat_schedule.client.hget(keys.BEAT_PROJECTION, named)
    assert (str(before).split()[0], str(after).split()[0]) == ("1.1", "1.2")


def test_entries_lost_by_redis_are_rebuilt_in_bounded_rounds(
    sync_driver: BeatSyncDriver, beat: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beat_sync, "_COMPARE_BATCH_SIZE", 700)
    ids = sync_driver.put_hourly_schedules(5000, sync_driver.now - 3 * HOUR)
    sync_driver.run_for()
    assert sync_driver.list_entry_ids() == set(ids)
    sync_driver.beat_schedule.client.flushall()

    sync_driver.projector.reset()
    sync_driver.projector.run()
    assert len(sync_driver.list_entry_ids()) == 700
    sync_driver.run_for(7)

    assert sync_driver.list_entry_ids() == set(ids)
    missed = compute_next_time(HOURLY, sync_driver.now - 3 * HOUR)
    for _ in range(11):
        beat.tick()
    assert sorted(sync_driver.beat_schedule.list_reported()) == [(each, missed) for each in ids]


def test_lost_entries_are_rebuilt_within_a_minute_without_notification(sync_driver: BeatSyncDriver) -> None:
    ids = sync_driver.put_hourly_schedules(50, sync_driver.now)
    sync_driver.run_for(37)
    sync_driver.beat_schedule.client.flushall()
    sync_driver.run_for(FULL_SWEEP_SECONDS)
    assert sync_driver.list_entry_ids() == set(ids)


def test_removed_schedules_are_found_in_bounded_rounds(
    sync_driver: BeatSyncDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beat_sync, "_COMPARE_BATCH_SIZE", 100)
    ids = sync_driver.put_hourly_schedules(1500, sync_driver.now)
    sync_driver.run_for()
    with sync_driver.database.write() as connection:
        connection.execute(job_schedules.delete().where(job_schedules.c.id > ids[99]))
    sync_driver.run_for()
    assert sync_driver.list_entry_ids() == set(ids[:100])


def test_occurrence_whose_report_was_lost_is_reported_again(sync_driver: BeatSyncDriver, beat: Scheduler) -> None:
    nominal = compute_next_time(HOURLY, sync_driver.now - HOUR)
    assert nominal is not None
    due = sync_driver.put_schedule("due", HOURLY, sync_driver.now - HOUR)
    sync_driver.run_for()
    beat.tick()
    sync_driver.beat_schedule.client.delete(keys.EVENTS)
    # The report is not repeated at once, because it may be on its way to the evaluation.
    soon = ManualClock(nominal + 5 * SECOND)
    BeatSynchronizer(sync_driver.database, Projection(sync_driver.beat_schedule.client), soon).run()
    assert sync_driver.get_next_time(due) == compute_next_time(HOURLY, sync_driver.now)

    later = ManualClock(max(nominal + 11 * SECOND, sync_driver.now))
    BeatSynchronizer(sync_driver.database, Projection(sync_driver.beat_schedule.client), later).run()
    assert sync_driver.get_next_time(due) == nominal
    beat.tick()
    assert sync_driver.beat_schedule.list_reported() == [(due, nominal)]


def test_occurrence_is_not_reported_again_while_reports_are_unread(
    sync_driver: BeatSyncDriver, beat: Scheduler
) -> None:
    nominal = sync_driver.now - SECOND
    rule = {"kind": "interval", "every": 3600, "anchor": nominal.isoformat()}
    due = sync_driver.put_schedule("due", rule, nominal - SECOND)
    sync_driver.run_for(1)
    beat.tick()
    # The relay is busy and reads the report later.
    sync_driver.clock.advance(600)
    sync_driver.projector.reset()
    sync_driver.projector.run()
    assert sync_driver.get_next_time(due) == nominal + HOUR

    [(stream_id, _)] = sync_driver.beat_schedule.client.xrange(keys.EVENTS)
    with sync_driver.database.write() as connection:
        connection.execute(sa.update(core.relay_state).values(events_offset=stream_id))
    sync_driver.projector.reset()
    sync_driver.projector.run()
    assert sync_driver.get_next_time(due) == nominal


def test_report_after_an_outage_is_not_considered_lost(
    sync_driver: BeatSyncDriver, beat: Scheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole system was down at the due time, and beat is back before the relay has read any report."""
    nominal = compute_next_time(HOURLY, sync_driver.now - 3 * HOUR)
    due = sync_driver.put_schedule("due", HOURLY, sync_driver.now - 3 * HOUR)
    sync_driver.run_for(1)
    beat.tick()
    assert sync_driver.beat_schedule.list_reported() == [(due, nominal)]

    sync_driver.projector.reset()
    sync_driver.projector.run()

    assert sync_driver.get_next_time(due) == compute_next_time(HOURLY, sync_driver.now)
    assert "due_event_lost" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("settled", "score"), [(0, None), (0, "inf"), (1, "inf")])
def test_postponed_entry_is_restored(
    sync_driver: BeatSyncDriver, capsys: pytest.CaptureFixture[str], settled: int, score: str | None
) -> None:
    since = sync_driver.now - settled * HOUR
    due = sync_driver.put_schedule("due", HOURLY, since)
    sync_driver.run_for()
    score = score or entry_format.to_score(sync_driver.now + 48 * HOUR)
    sync_driver.beat_schedule.client.zadd(entry_format.SCHEDULE_KEY, {entry_format.build_entry_key(due): score})
    sync_driver.clock.advance(11)
    sync_driver.run_for()
    assert sync_driver.get_next_time(due) == compute_next_time(HOURLY, since)
    said = "".join(capsys.readouterr())
    assert "beat_entries_put_back" in said
    assert "due_event_lost" not in said


@pytest.mark.parametrize("how", ["quarantined", "text", "another definition", "no definition"])
def test_broken_entry_is_restored_with_its_occurrence(sync_driver: BeatSyncDriver, beat: Scheduler, how: str) -> None:
    nominal = compute_next_time(HOURLY, sync_driver.now - HOUR)
    due = sync_driver.put_schedule("due", HOURLY, sync_driver.now - HOUR)
    sync_driver.run_for()
    key, client = entry_format.build_entry_key(due), sync_driver.beat_schedule.client
    if how == "quarantined":
        client.hset(key, entry_format.DEFINITION_FIELD, "{")
        beat.tick()
        assert sync_driver.get_next_time(due) is None
    elif how == "another definition":
        client.hset(
            key, entry_format.DEFINITION_FIELD, entry_format.encode_definition(due, make_spec(EVERY_10_MINUTES))
        )
    else:
        client.delete(key)
        if how == "text":
            client.set(key, "text")
    sync_driver.run_for()
    beat.tick()
    assert sync_driver.beat_schedule.list_quarantined() == {}
    assert sync_driver.beat_schedule.list_reported() == [(due, nominal)]
    assert sync_driver.list_entry_ids() == {due}


def test_schedule_unreadable_for_beat_is_quarantined_and_blocks_no_other(
    sync_driver: BeatSyncDriver, beat: Scheduler
) -> None:
    nominal = compute_next_time(HOURLY, sync_driver.now - HOUR)
    broken, good = (
        sync_driver.put_schedule("broken", HOURLY, sync_driver.now - HOUR),
        sync_driver.put_schedule("good", HOURLY, sync_driver.now - HOUR),
    )
    sync_driver.update_schedule(broken, spec={**make_spec(HOURLY, name="broken"), "rule": {"kind": "moon"}})
    sync_driver.run_for(1)
    beat.tick()
    assert sync_driver.beat_schedule.list_reported() == [(good, nominal)]
    assert list(sync_driver.beat_schedule.list_quarantined()) == [entry_format.build_entry_key(broken)]


def test_foreign_entries_are_left_unchanged(sync_driver: BeatSyncDriver) -> None:
    sync_driver.beat_schedule.client.zadd(entry_format.SCHEDULE_KEY, {"redbeat:mine": 10**10})
    mine = sync_driver.put_schedule("mine", HOURLY, sync_driver.now)
    sync_driver.run_for()
    sync_driver.delete_schedule(mine)
    sync_driver.run_for()
    assert sync_driver.beat_schedule.client.zrange(entry_format.SCHEDULE_KEY, 0, -1) == ["redbeat:mine"]
