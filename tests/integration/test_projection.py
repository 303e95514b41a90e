"""From schedules as SQL has them to the entries that beat follows."""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from jobworker.clock import ManualClock
from jobworker.domain import schedule as schedules
from jobworker.domain.calendars import BusinessCalendar, DateCalendar
from jobworker.domain.job import JobOwner as CalendarOwner
from jobworker.domain.schedule import ScheduleOwner
from jobworker.relay import project
from jobworker.relay.project import BeatSynchronizer
from jobworker.store import calendars, schema
from jobworker.store import schedules as store
from jobworker.store.database import Database
from jobworker.transport import entries, keys
from jobworker.transport.beat import Scheduler
from jobworker.transport.projection import Projection
from tests.integration.test_beat import EVERY_10_MINUTES, HOURLY, BeatSchedule, make_scheduler, compute_next_time, make_spec

pytestmark = pytest.mark.every_redis

HOUR = dt.timedelta(hours=1)
SECOND = dt.timedelta(seconds=1)

#: Longer than the relay may need until it has looked at everything (s).
FULL_SWEEP_SECONDS = 60.0

_table = schema.job_schedules


@dataclass
class BeatSyncDriver:
    """A relay's projector with its clock, the database that it reads and the Redis that it writes."""

    database: Database
    beat_schedule: BeatSchedule
    clock: ManualClock
    projector: BeatSynchronizer

    @property
    def now(self) -> dt.datetime:
        return self.beat_schedule.now

    def put_schedule(self, name: str, rule: Mapping[str, Any], settled: dt.datetime, **fields: Any) -> str:
        """Make or change a schedule whose occurrences up to `settled` are in the ledger; answers its id."""
        with self.database.write() as connection:
            spec = schedules.parse(make_spec(rule, **{"name": name, **fields}))
            row = store.upsert(connection, spec, ScheduleOwner.API, "ann", self.clock.now(), compute_next_time(rule, settled))
            return row.id

    def put_hourly_schedules(self, count: int, settled: dt.datetime) -> list[str]:
        """Hourly schedules, all at once and long ago."""
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
            connection.execute(_table.insert(), rows)
        return [row["id"] for row in rows]

    def update_schedule(self, schedule_id: str, **values: Any) -> None:
        with self.database.write() as connection:
            connection.execute(sa.update(_table).where(_table.c.id == schedule_id).values(values))

    def delete_schedule(self, schedule_id: str) -> None:
        with self.database.write() as connection:
            row = store.get(connection, schedule_id)
            assert row is not None
            store.delete(connection, row, "ann", self.clock.now())

    def run_for(self, seconds: float = FULL_SWEEP_SECONDS) -> None:
        """What the relay does in this time."""
        for _ in range(int(seconds)):
            self.projector.run()
            self.clock.advance(1.0)

    def count_commands(self) -> dict[str, int]:
        """How often each command was called so far."""
        return {name: stat["calls"] for name, stat in self.beat_schedule.client.info("commandstats").items()}

    def get_next_time(self, schedule_id: str) -> dt.datetime | None:
        return self.beat_schedule.get_next_time(schedule_id)

    def list_entry_ids(self) -> set[str]:
        """The ids of all schedules of which there is a complete entry."""
        found = set(self.beat_schedule.client.zrange(entries.SCHEDULE_KEY, 0, -1))
        ids = {key.removeprefix(entries.KEY_PREFIX) for key in found if self.beat_schedule.client.hexists(key, "definition")}
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
def house(sqlite_database: Database, client: redis.Redis) -> BeatSyncDriver:
    return create_driver(sqlite_database, client)


@pytest.fixture
def beat(redis_url: str) -> Scheduler:
    return make_scheduler(redis_url)


def test_a_new_schedule_is_known_with_the_next_round(database: Database, client: redis.Redis, redis_url: str) -> None:
    house = create_driver(database, client)
    house.run_for()
    first = house.put_schedule("nightly", HOURLY, house.clock.now(), zone="Europe/Berlin")
    house.run_for(1)
    assert house.list_entry_ids() == {first}
    assert house.get_next_time(first) == compute_next_time(HOURLY, house.clock.now())
    beat = make_scheduler(redis_url)
    entry = beat.Entry.from_key(entries.build_entry_key(first), app=beat.app)
    assert (entry.name, entry.task, entry.schedule.described["zone"]) == (first, "job", "Europe/Berlin")


def test_nothing_changed_writes_nothing(house: BeatSyncDriver) -> None:
    house.put_hourly_schedules(100, house.now)
    house.run_for()
    before = house.count_commands()
    house.run_for()
    after = house.count_commands()
    read = {"evalsha", "hget", "zscore", "hlen", "xrange", "info"}
    assert {name.removeprefix("cmdstat_") for name in after if after[name] != before.get(name)} <= read


def test_an_occurrence_that_is_due_survives_a_round_and_another_relay(house: BeatSyncDriver, beat: Scheduler) -> None:
    nominal = compute_next_time(HOURLY, house.now - HOUR)
    due = house.put_schedule("due", HOURLY, house.now - HOUR)
    house.run_for()
    house.projector.reset()
    house.run_for()
    assert house.get_next_time(due) == nominal
    beat.tick()
    assert house.beat_schedule.list_reported() == [(due, nominal)]


@pytest.mark.parametrize("settled", [HOUR, dt.timedelta(0)])
def test_a_changed_schedule_begins_with_the_next_occurrence_that_has_no_row(
    house: BeatSyncDriver, beat: Scheduler, settled: dt.timedelta
) -> None:
    house.put_schedule("mine", HOURLY, house.now)
    house.run_for()
    changed = house.put_schedule("mine", EVERY_10_MINUTES, house.now - settled)
    house.run_for(1)
    assert house.get_next_time(changed) == compute_next_time(EVERY_10_MINUTES, house.now - settled)
    assert house.beat_schedule.list_reported() == []


@pytest.mark.parametrize("how", ["deleted", "disabled", "retired", "exhausted"])
def test_a_schedule_that_has_nothing_ahead_leaves_nothing_behind(house: BeatSyncDriver, how: str) -> None:
    gone, other = house.put_schedule("gone", HOURLY, house.now), house.put_schedule("other", HOURLY, house.now)
    house.run_for()
    assert house.list_entry_ids() == {gone, other}
    changes: dict[str, dict[str, Any]] = {
        "disabled": {"enabled": False},
        "retired": {"state": "retired"},
        "exhausted": {"state": "exhausted", "next_at": None},
    }
    if how == "deleted":
        house.delete_schedule(gone)
    else:
        house.update_schedule(gone, **changes[how])
    house.run_for()
    assert set(house.beat_schedule.client.keys("*")) == {
        entries.SCHEDULE_KEY,
        entries.build_entry_key(other),
        keys.BEAT_PROJECTION,
    }
    assert house.list_entry_ids() == {other}


def test_a_paused_schedule_stays_for_its_occurrences_leave_rows(house: BeatSyncDriver) -> None:
    paused = house.put_schedule("paused", HOURLY, house.now)
    house.run_for()
    house.update_schedule(paused, paused_at=house.now, paused_by="ann", changed_at=house.clock.now())
    house.run_for()
    assert house.list_entry_ids() == {paused}


def test_of_thousands_only_the_changed_one_is_looked_at(house: BeatSyncDriver) -> None:
    ids = house.put_hourly_schedules(3000, house.now)
    house.run_for(3)
    house.put_schedule("s17", EVERY_10_MINUTES, house.now)
    before = house.count_commands()
    house.projector.run()
    after = house.count_commands()
    looked_at = after["cmdstat_zscore"] - before["cmdstat_zscore"]
    written = after["cmdstat_del"] - before.get("cmdstat_del", 0)
    assert (looked_at, written) == (1, 1)
    assert house.get_next_time(ids[17]) == compute_next_time(EVERY_10_MINUTES, house.now)


def test_so_many_changes_that_they_are_not_read_one_by_one(house: BeatSyncDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "_MAX_RECENT", 10)
    ids = house.put_hourly_schedules(50, house.now)
    house.run_for()
    with house.database.write() as connection:
        connection.execute(sa.update(_table).values(revision=2, changed_at=house.clock.now()))
    house.run_for(3)
    found = house.beat_schedule.client.hvals(keys.BEAT_PROJECTION)
    assert len(found) == len(ids)
    assert all(mark.startswith("2.") for mark in found)


def test_a_change_that_was_committed_late_is_found_all_the_same(house: BeatSyncDriver) -> None:
    house.run_for()
    late = house.put_hourly_schedules(1, house.now)
    house.run_for()
    assert house.list_entry_ids() == set(late)


FIRST_DAY = {"kind": "business_day", "n": 1, "time": "06:00", "roll": "following"}


def test_beat_finds_the_calendars_that_it_needs_in_the_entry(house: BeatSyncDriver, beat: Scheduler) -> None:
    month = house.now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + 32 * 24 * HOUR
    days = [month.date().replace(day=number) for number in range(1, 29)]
    nominal = dt.datetime.combine(days[0], dt.time(6), dt.UTC)
    # Every day is a business day, but the first is closed and the second forbidden.
    office = BusinessCalendar(weekend=frozenset(), closed={days[0]: "moving"}).to_json()
    forbidden, elsewhere = (DateCalendar({day: "stocktaking"}).to_json() for day in (days[1], days[20]))
    with house.database.write() as connection:
        calendars.upsert(connection, "office", office, CalendarOwner.API, "ann", house.now)
        calendars.upsert(connection, "forbidden", forbidden, CalendarOwner.API, "ann", house.now)
        spec = schedules.parse(make_spec(FIRST_DAY, name="first", calendar="office", exclude=["forbidden"]))
        row = store.upsert(connection, spec, ScheduleOwner.API, "ann", house.clock.now(), nominal)
    house.run_for(1)
    entry = beat.Entry.from_key(entries.build_entry_key(row.id), app=beat.app)
    assert entry.schedule.next_after(nominal - 24 * HOUR) == nominal + 48 * HOUR

    with house.database.write() as connection:
        calendars.upsert(connection, "forbidden", elsewhere, CalendarOwner.API, "ann", house.clock.now())
    house.run_for()
    entry = beat.Entry.from_key(entries.build_entry_key(row.id), app=beat.app)
    assert entry.schedule.next_after(nominal - 24 * HOUR) == nominal + 24 * HOUR


def test_calendars_that_change_no_nominal_time_are_left_out(house: BeatSyncDriver) -> None:
    with house.database.write() as connection:
        calendars.upsert(connection, "office", BusinessCalendar().to_json(), CalendarOwner.API, "ann", house.now)
    hourly = house.put_schedule("hourly", HOURLY, house.now, require=["office"])
    house.run_for(1)
    definition = house.beat_schedule.client.hget(entries.build_entry_key(hourly), entries.DEFINITION_FIELD)
    assert "office" not in str(definition)


def test_another_revision_of_a_calendar_writes_its_schedules_again(house: BeatSyncDriver) -> None:
    with house.database.write() as connection:
        calendars.upsert(connection, "open", BusinessCalendar().to_json(), CalendarOwner.API, "ann", house.now)
    named = house.put_schedule("named", HOURLY, house.now, require=["open"])
    house.run_for()
    before = house.beat_schedule.client.hget(keys.BEAT_PROJECTION, named)
    with house.database.write() as connection:
        calendars.upsert(
            connection, "open", DateCalendar({house.now.date(): "fair"}).to_json(), CalendarOwner.API, "ann", house.now
        )
    house.run_for()
    after = house.beat_schedule.client.hget(keys.BEAT_PROJECTION, named)
    assert (str(before).split()[0], str(after).split()[0]) == ("1.1", "1.2")


def test_everything_is_rebuilt_in_bounded_rounds_when_redis_lost_it(
    house: BeatSyncDriver, beat: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "_COMPARE_BATCH_SIZE", 700)
    ids = house.put_hourly_schedules(5000, house.now - 3 * HOUR)
    house.run_for()
    assert house.list_entry_ids() == set(ids)
    house.beat_schedule.client.flushall()

    house.projector.reset()
    house.projector.run()
    assert len(house.list_entry_ids()) == 700
    house.run_for(7)

    assert house.list_entry_ids() == set(ids)
    missed = compute_next_time(HOURLY, house.now - 3 * HOUR)
    for _ in range(11):
        beat.tick()
    assert sorted(house.beat_schedule.list_reported()) == [(each, missed) for each in ids]


def test_without_being_told_everything_is_rebuilt_within_a_minute(house: BeatSyncDriver) -> None:
    ids = house.put_hourly_schedules(50, house.now)
    house.run_for(37)
    house.beat_schedule.client.flushall()
    house.run_for(FULL_SWEEP_SECONDS)
    assert house.list_entry_ids() == set(ids)


def test_many_that_are_gone_are_found_in_bounded_rounds(house: BeatSyncDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "_COMPARE_BATCH_SIZE", 100)
    ids = house.put_hourly_schedules(1500, house.now)
    house.run_for()
    with house.database.write() as connection:
        connection.execute(_table.delete().where(_table.c.id > ids[99]))
    house.run_for()
    assert house.list_entry_ids() == set(ids[:100])


def test_an_occurrence_that_beat_reported_and_nobody_heard_of_is_reported_again(house: BeatSyncDriver, beat: Scheduler) -> None:
    nominal = compute_next_time(HOURLY, house.now - HOUR)
    assert nominal is not None
    due = house.put_schedule("due", HOURLY, house.now - HOUR)
    house.run_for()
    beat.tick()
    house.beat_schedule.client.delete(keys.EVENTS)
    # Not at once: it is on its way to whoever settles.
    soon = ManualClock(nominal + 5 * SECOND)
    BeatSynchronizer(house.database, Projection(house.beat_schedule.client), soon).run()
    assert house.get_next_time(due) == compute_next_time(HOURLY, house.now)

    later = ManualClock(max(nominal + 11 * SECOND, house.now))
    BeatSynchronizer(house.database, Projection(house.beat_schedule.client), later).run()
    assert house.get_next_time(due) == nominal
    beat.tick()
    assert house.beat_schedule.list_reported() == [(due, nominal)]


def test_nothing_is_reported_again_while_reports_wait_to_be_settled(house: BeatSyncDriver, beat: Scheduler) -> None:
    nominal = house.now - SECOND
    rule = {"kind": "interval", "every": 3600, "anchor": nominal.isoformat()}
    due = house.put_schedule("due", rule, nominal - SECOND)
    house.run_for(1)
    beat.tick()
    # The relay has much to do, and reads that later.
    house.clock.advance(600)
    house.projector.reset()
    house.projector.run()
    assert house.get_next_time(due) == nominal + HOUR

    [(stream_id, _)] = house.beat_schedule.client.xrange(keys.EVENTS)
    with house.database.write() as connection:
        connection.execute(sa.update(schema.relay_state).values(events_offset=stream_id))
    house.projector.reset()
    house.projector.run()
    assert house.get_next_time(due) == nominal


def test_what_beat_reports_after_a_silence_is_not_held_to_be_lost(
    house: BeatSyncDriver, beat: Scheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything was down when it was due, and beat is back before the relay has read anything."""
    nominal = compute_next_time(HOURLY, house.now - 3 * HOUR)
    due = house.put_schedule("due", HOURLY, house.now - 3 * HOUR)
    house.run_for(1)
    beat.tick()
    assert house.beat_schedule.list_reported() == [(due, nominal)]

    house.projector.reset()
    house.projector.run()

    assert house.get_next_time(due) == compute_next_time(HOURLY, house.now)
    assert "due_event_lost" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("settled", "score"), [(0, None), (0, "inf"), (1, "inf")])
def test_an_entry_that_somebody_put_off_comes_back(
    house: BeatSyncDriver, capsys: pytest.CaptureFixture[str], settled: int, score: str | None
) -> None:
    since = house.now - settled * HOUR
    due = house.put_schedule("due", HOURLY, since)
    house.run_for()
    score = score or entries.to_score(house.now + 48 * HOUR)
    house.beat_schedule.client.zadd(entries.SCHEDULE_KEY, {entries.build_entry_key(due): score})
    house.clock.advance(11)
    house.run_for()
    assert house.get_next_time(due) == compute_next_time(HOURLY, since)
    said = "".join(capsys.readouterr())
    assert "beat_entries_put_back" in said
    assert "due_event_lost" not in said


@pytest.mark.parametrize("how", ["quarantined", "text", "another definition", "no definition"])
def test_a_broken_entry_is_healed_with_its_occurrence(house: BeatSyncDriver, beat: Scheduler, how: str) -> None:
    nominal = compute_next_time(HOURLY, house.now - HOUR)
    due = house.put_schedule("due", HOURLY, house.now - HOUR)
    house.run_for()
    key, client = entries.build_entry_key(due), house.beat_schedule.client
    if how == "quarantined":
        client.hset(key, entries.DEFINITION_FIELD, "{")
        beat.tick()
        assert house.get_next_time(due) is None
    elif how == "another definition":
        client.hset(key, entries.DEFINITION_FIELD, entries.encode_definition(due, make_spec(EVERY_10_MINUTES)))
    else:
        client.delete(key)
        if how == "text":
            client.set(key, "text")
    house.run_for()
    beat.tick()
    assert house.beat_schedule.list_quarantined() == {}
    assert house.beat_schedule.list_reported() == [(due, nominal)]
    assert house.list_entry_ids() == {due}


def test_a_schedule_that_beat_cannot_read_is_named_and_the_others_go_on(house: BeatSyncDriver, beat: Scheduler) -> None:
    nominal = compute_next_time(HOURLY, house.now - HOUR)
    broken, good = house.put_schedule("broken", HOURLY, house.now - HOUR), house.put_schedule("good", HOURLY, house.now - HOUR)
    house.update_schedule(broken, spec={**make_spec(HOURLY, name="broken"), "rule": {"kind": "moon"}})
    house.run_for(1)
    beat.tick()
    assert house.beat_schedule.list_reported() == [(good, nominal)]
    assert list(house.beat_schedule.list_quarantined()) == [entries.build_entry_key(broken)]


def test_entries_of_others_are_not_touched(house: BeatSyncDriver) -> None:
    house.beat_schedule.client.zadd(entries.SCHEDULE_KEY, {"redbeat:mine": 10**10})
    mine = house.put_schedule("mine", HOURLY, house.now)
    house.run_for()
    house.delete_schedule(mine)
    house.run_for()
    assert house.beat_schedule.client.zrange(entries.SCHEDULE_KEY, 0, -1) == ["redbeat:mine"]
