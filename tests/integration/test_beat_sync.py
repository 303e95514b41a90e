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

    def put_schedule(self, name: str, rule: Mapping[str, Any], settled_until: dt.datetime, **fields: Any) -> str:
        """Create or change a schedule whose occurrences up to `settled_until` are recorded; return its id."""
        with self.database.write() as connection:
            spec = schedules.parse(make_spec(rule, **{"name": name, **fields}))
            row = schedule_rows.upsert(
                connection, spec, ScheduleOwner.API, "ann", self.clock.now(), compute_next_time(rule, settled_until)
            )
            return row.id

    def put_hourly_schedules(self, count: int, settled_until: dt.datetime) -> list[str]:
        """Insert hourly schedules that were created long ago, all at one time; return their ids."""
        with self.database.write() as connection:
            common = {
                "owner": "api",
                "revision": 1,
                "enabled": True,
                "state": "active",
                "settled_until": settled_until,
                "next_at": compute_next_time(HOURLY, settled_until),
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
        entry_keys = set(self.beat_schedule.client.zrange(entry_format.SCHEDULE_KEY, 0, -1))
        ids = {
            key.removeprefix(entry_format.KEY_PREFIX)
            for key in entry_keys
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


@pytest.mark.parametrize("settled_ago", [HOUR, dt.timedelta(0)])
def test_changed_schedule_continues_with_the_next_unrecorded_occurrence(
    sync_driver: BeatSyncDriver, beat: Scheduler, settled_ago: dt.timedelta
) -> None:
    sync_driver.put_schedule("mine", HOURLY, sync_driver.now)
    sync_driver.run_for()
    changed = sync_driver.put_schedule("mine", EVERY_10_MINUTES, sync_driver.now - settled_ago)
    sync_driver.run_for(1)
    assert sync_driver.get_next_time(changed) == compute_next_time(EVERY_10_MINUTES, sync_driver.now - settled_ago)
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
    marks = sync_driver.beat_schedule.client.hvals(keys.BEAT_PROJECTION)
    assert len(marks) == len(ids)
    assert all(mark.startswith("2.") for mark in marks)


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
