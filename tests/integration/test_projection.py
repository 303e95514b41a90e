"""From schedules as SQL has them to the entries that beat follows."""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis

from jobworker.domain.schedule import parse
from jobworker.transport import entries, keys
from jobworker.transport.beat import Scheduler
from jobworker.transport.projection import AUDIT_EVERY, Projection, Synced
from tests.integration.test_beat import Schedule, make_scheduler

HOUR = dt.timedelta(hours=1)
HOURLY = {"kind": "cron", "expression": "0 * * * *", "zone": "UTC"}
EVERY_10_MINUTES = {"kind": "interval", "every": 600}


@dataclass(frozen=True)
class Row:
    """A schedule as the store hands it out."""

    id: str
    changed_at: dt.datetime
    after: dt.datetime
    job: str = "job"
    rule: Mapping[str, Any] = None  # type: ignore[assignment]
    enabled: bool = True


@pytest.fixture
def schedule(redis_url: str) -> Iterator[Schedule]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield Schedule(client)


@pytest.fixture
def projection(schedule: Schedule) -> Projection:
    return Projection(schedule.client)


@pytest.fixture
def beat(redis_url: str) -> Scheduler:
    return make_scheduler(redis_url)


@pytest.fixture
def row(schedule: Schedule) -> Row:
    """An hourly schedule that has been settled up to just now."""
    return Row("s1", changed_at=schedule.now - 24 * HOUR, after=schedule.now, rule=HOURLY)


def test_a_new_schedule_starts_with_its_first_occurrence(
    projection: Projection, schedule: Schedule, beat: Scheduler, row: Row
) -> None:
    assert projection.sync([row], schedule.now) == Synced(written=1, removed=0)
    assert schedule.next_of("s1") == parse(HOURLY).next_after(schedule.now)
    assert beat.Entry.from_key(entries.entry_key("s1"), app=beat.app).schedule.rule == parse(HOURLY)


def test_nothing_changed_writes_nothing(projection: Projection, schedule: Schedule, row: Row) -> None:
    projection.sync([row], schedule.now)
    before = schedule.client.info("commandstats")
    assert projection.sync([row], schedule.now) == Synced(0, 0)
    after = schedule.client.info("commandstats")
    used = {name for name in after if after[name]["calls"] != before.get(name, {"calls": 0})["calls"]}
    assert used <= {"cmdstat_hgetall", "cmdstat_info"}


def test_an_occurrence_that_is_due_survives_a_sync(
    projection: Projection, schedule: Schedule, beat: Scheduler, row: Row
) -> None:
    due = replace(row, after=schedule.now - HOUR)
    nominal = parse(HOURLY).next_after(due.after)
    assert nominal is not None
    projection.sync([due], schedule.now)
    for later in (schedule.now, schedule.now + 2 * AUDIT_EVERY):
        projection.sync([due], later)
        Projection(schedule.client).sync([due], later)
    beat.tick()
    assert schedule.reported() == [("s1", nominal)]


def test_a_changed_rule_starts_anew_after_reporting_what_was_due(
    projection: Projection, schedule: Schedule, beat: Scheduler, row: Row
) -> None:
    before = replace(row, after=schedule.now - HOUR)
    due = parse(HOURLY).next_after(before.after)
    projection.sync([before], schedule.now)

    changed = replace(row, rule=EVERY_10_MINUTES, changed_at=schedule.now, after=schedule.now)
    projection.sync([changed], schedule.now)

    assert schedule.reported() == [("s1", due)]
    assert schedule.next_of("s1") == parse(EVERY_10_MINUTES).next_after(schedule.now)
    beat.tick()
    projection.sync([changed], schedule.now)
    assert len(schedule.reported()) == 1


def test_a_changed_rule_forgets_what_was_to_come(projection: Projection, schedule: Schedule, row: Row) -> None:
    projection.sync([row], schedule.now)
    changed_at = schedule.now + dt.timedelta(seconds=1)
    projection.sync([replace(row, rule=EVERY_10_MINUTES, changed_at=changed_at, after=changed_at)], schedule.now)
    assert schedule.reported() == []
    assert schedule.next_of("s1") == parse(EVERY_10_MINUTES).next_after(changed_at)


@pytest.mark.parametrize("how", ["deleted", "disabled"])
def test_a_schedule_that_is_gone_leaves_nothing_behind(
    projection: Projection, schedule: Schedule, row: Row, how: str
) -> None:
    other = replace(row, id="s2")
    projection.sync([row, other], schedule.now)
    rows = [other] if how == "deleted" else [replace(row, enabled=False), other]
    assert projection.sync(rows, schedule.now) == Synced(written=0, removed=1)
    assert set(schedule.client.keys("*")) == {entries.SCHEDULE_KEY, entries.entry_key("s2"), keys.BEAT_PROJECTION}
    assert schedule.next_of("s1") is None
    assert schedule.client.hkeys(keys.BEAT_PROJECTION) == ["s2"]


def test_everything_is_rebuilt_when_redis_lost_it(
    projection: Projection, schedule: Schedule, beat: Scheduler, row: Row
) -> None:
    rows = [replace(row, id=f"s{number}", after=schedule.now - 3 * HOUR) for number in range(1200)]
    projection.sync(rows, schedule.now)
    schedule.client.flushall()

    assert projection.sync(rows, schedule.now) == Synced(written=1200, removed=0)

    missed = parse(HOURLY).next_after(schedule.now - 3 * HOUR)
    for _ in range(4):
        beat.tick()
    assert sorted(schedule.reported()) == sorted((each.id, missed) for each in rows)


def test_a_quarantined_entry_is_healed_with_its_occurrence(
    projection: Projection, schedule: Schedule, beat: Scheduler, row: Row
) -> None:
    due = replace(row, after=schedule.now - HOUR)
    projection.sync([due], schedule.now)
    schedule.client.hset(entries.entry_key("s1"), entries.DEFINITION, "{")
    beat.tick()
    assert schedule.next_of("s1") is None

    assert projection.sync([due], schedule.now) == Synced(0, 0)
    assert projection.sync([due], schedule.now + AUDIT_EVERY) == Synced(written=1, removed=0)
    beat.tick()

    assert schedule.quarantine() == {}
    assert schedule.reported() == [("s1", parse(HOURLY).next_after(due.after))]


def test_a_key_that_holds_something_else_is_healed(projection: Projection, schedule: Schedule, row: Row) -> None:
    schedule.client.set(entries.entry_key("s1"), "text")
    schedule.client.zadd(entries.SCHEDULE_KEY, {entries.entry_key("s1"): 1})
    projection.sync([row], schedule.now)
    assert schedule.client.hget(entries.entry_key("s1"), entries.DEFINITION)


def test_a_rule_that_cannot_be_used_is_named_once_and_the_others_go_on(
    projection: Projection, schedule: Schedule, row: Row, capsys: pytest.CaptureFixture[str]
) -> None:
    projection.sync([row, replace(row, id="s2", job="nightly")], schedule.now)
    broken = replace(row, id="s2", job="nightly", rule={"kind": "moon"})
    assert projection.sync([row, broken], schedule.now) == Synced(written=0, removed=1)
    projection.sync([row, broken], schedule.now)
    assert schedule.next_of("s1") is not None
    assert schedule.next_of("s2") is None
    assert "".join(capsys.readouterr()).count("nightly") == 1
    assert projection.sync([row, replace(broken, rule=HOURLY)], schedule.now) == Synced(written=1, removed=0)


def test_entries_of_others_are_not_touched(projection: Projection, schedule: Schedule, row: Row) -> None:
    schedule.client.zadd(entries.SCHEDULE_KEY, {"redbeat:mine": 10**10})
    projection.sync([row], schedule.now)
    projection.sync([], schedule.now)
    assert schedule.client.zrange(entries.SCHEDULE_KEY, 0, -1) == ["redbeat:mine"]
