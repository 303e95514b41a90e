"""Calendars, their revisions, and the values that are made of them."""

import datetime as dt
import threading
from typing import Any

import pytest

from jobworker.clock import ManualClock
from jobworker.domain.calendars.calendars import BusinessCalendar, DateCalendar
from jobworker.domain.errors import CalendarInUse, CalendarNotFound
from jobworker.domain.jobs.definition import JobOwner
from jobworker.domain.schedules.schedule import ScheduleOwner, parse
from jobworker.services.calendars import calendar_changes
from jobworker.services.calendars import calendars as values
from jobworker.store import audit
from jobworker.store.calendars import calendar_rows
from jobworker.store.database.database import Database
from jobworker.store.schedules import schedule_rows
from tests.conformance.factories import NOW

LATER = NOW + dt.timedelta(hours=1)
BUSINESS_CALENDAR = BusinessCalendar(closed={dt.date(2026, 12, 24): "Christmas Eve"}).to_json()
BLACKOUT_CALENDAR = DateCalendar({dt.date(2026, 3, 3): "stocktaking"}).to_json()


def _put_schedule(name: str, **fields: Any) -> Any:
    return parse({"name": name, "job": "send", "rule": {"kind": "daily", "time": "06:00"}, **fields})


def test_calendar_is_read_back(database: Database) -> None:
    with database.write() as connection:
        put = calendar_rows.upsert(connection, "office", BUSINESS_CALENDAR, JobOwner.API, "ann", NOW)
    with database.read() as connection:
        assert calendar_rows.get(connection, "office") == put
        assert calendar_rows.get(connection, "other") is None
        assert calendar_rows.get_many(connection, ["office", "other"]) == {"office": put}
        assert calendar_rows.get_current_revisions(connection, ["office", "other"]) == {"office": (1, NOW)}
        assert calendar_rows.list_nearby_names(connection, "offices") == ["office"]
    assert (put.revision, put.owner, put.spec, put.created_at, put.changed_at) == (
        1,
        JobOwner.API,
        BUSINESS_CALENDAR,
        NOW,
        NOW,
    )


def test_calendar_change_creates_a_permanent_revision(database: Database) -> None:
    with database.write() as connection:
        calendar_rows.upsert(connection, "office", BUSINESS_CALENDAR, JobOwner.API, "ann", NOW)
        second = calendar_rows.upsert(connection, "office", BLACKOUT_CALENDAR, JobOwner.API, "bob", LATER)
        assert calendar_rows.upsert(connection, "office", BLACKOUT_CALENDAR, JobOwner.API, "cat", LATER) == second
        assert (second.revision, second.created_at, second.changed_at) == (2, NOW, LATER)
        calendar_rows.delete(connection, second, "dan", LATER)
        assert calendar_rows.get(connection, "office") is None
        assert calendar_rows.upsert(connection, "office", BUSINESS_CALENDAR, JobOwner.CODE, "code", LATER).revision == 3
        revisions = calendar_rows.list_revisions(connection, "office").items
        first = calendar_rows.get_revision(connection, "office", 1)
        entries = audit.list_by_subject(connection, "office")
    assert [(row.revision, row.actor, row.spec) for row in revisions] == [
        (3, "code", BUSINESS_CALENDAR),
        (2, "bob", BLACKOUT_CALENDAR),
        (1, "ann", BUSINESS_CALENDAR),
    ]
    assert first == revisions[2]
    assert [(entry.actor, entry.action) for entry in entries] == [
        ("ann", "calendar.create"),
        ("bob", "calendar.change"),
        ("dan", "calendar.delete"),
        ("code", "calendar.create"),
    ]


def test_calendars_and_revisions_are_paged(database: Database) -> None:
    with database.write() as connection:
        for name in ("c", "a", "b"):
            calendar_rows.upsert(connection, name, BUSINESS_CALENDAR, JobOwner.API, "ann", NOW)
        calendar_rows.upsert(connection, "a", BLACKOUT_CALENDAR, JobOwner.API, "ann", NOW)
    with database.read() as connection:
        first = calendar_rows.list_page(connection, 2)
        assert [row.name for row in first.items] == ["a", "b"]
        assert [row.name for row in calendar_rows.list_page(connection, 2, first.next).items] == ["c"]
        latest = calendar_rows.list_revisions(connection, "a", 1)
        assert [row.revision for row in calendar_rows.list_revisions(connection, "a", 1, latest.next).items] == [1]


def test_lock_using_schedules_returns_schedules_of_calendar(database: Database) -> None:
    references = [("z", {"exclude": ["holidays"]}), ("a", {"require": ["holidays", "office"]}), ("none", {})]
    with database.write() as connection:
        for name, fields in references:
            schedule_rows.upsert(connection, _put_schedule(name, **fields), ScheduleOwner.API, "ann", NOW, LATER)
        assert [row.name for row in calendar_rows.lock_using_schedules(connection, "holidays")] == ["z", "a"]
        assert [row.name for row in calendar_rows.lock_using_schedules(connection, "office")] == ["a"]
        assert calendar_rows.lock_using_schedules(connection, "other") == []


@pytest.mark.parametrize("lock", [False, True])
def test_load_calendars_follows_every_change(database: Database, lock: bool) -> None:
    with database.write() as connection:
        calendar_rows.upsert(connection, "office", BUSINESS_CALENDAR, JobOwner.API, "ann", NOW)
        calendar_rows.upsert(connection, "black-outs", BLACKOUT_CALENDAR, JobOwner.API, "ann", NOW)
        loaded = values.load_calendars(connection, ["office", "black-outs"], lock)
        assert {name: calendar.to_json() for name, calendar in loaded.items()} == {
            "office": BUSINESS_CALENDAR,
            "black-outs": BLACKOUT_CALENDAR,
        }
        assert values.load_calendars(connection, ["office"], lock)["office"] is loaded["office"]
        # The cached value is correct even when both changes have the same time, because the tests' clock stands still.
        calendar_rows.upsert(connection, "office", BLACKOUT_CALENDAR, JobOwner.API, "ann", NOW)
        assert values.load_calendars(connection, ["office"], lock)["office"].to_json() == BLACKOUT_CALENDAR
        assert values.load_calendars(connection, (), lock) == {}


def test_unknown_calendar_error_suggests_similar_names(database: Database) -> None:
    with database.write() as connection:
        with pytest.raises(CalendarNotFound, match="and no other yet; POST /api/v1/calendars creates one"):
            values.load_calendars(connection, ["office"])
        calendar_rows.upsert(connection, "office", BUSINESS_CALENDAR, JobOwner.API, "ann", NOW)
        with pytest.raises(CalendarNotFound, match=r"no calendar 'ofice'; did you mean office.*no calendar 'x'"):
            values.load_calendars(connection, ["ofice", "office", "x"])


def test_invalid_calendar_references_are_returned_with_pointers(database: Database) -> None:
    rule = {"kind": "business_day", "n": 1, "time": "18:00"}
    with database.write() as connection:
        calendar_rows.upsert(connection, "office", BUSINESS_CALENDAR, JobOwner.API, "ann", NOW)
        calendar_rows.upsert(connection, "black-outs", BLACKOUT_CALENDAR, JobOwner.API, "ann", NOW)
        good = _put_schedule("a", rule=rule, calendar="office", exclude=["black-outs"], require=["office"])
        assert values.validate_schedule_calendars(connection, good) == []
        bad = _put_schedule("a", rule=rule, calendar="black-outs", exclude=["office", "blackouts"], require=["x"])
        problems = values.validate_schedule_calendars(connection, bad, "/schedule")
    assert [(problem.pointer, problem.code) for problem in problems] == [
        ("/schedule/require/0", "unknown_calendar"),
        ("/schedule/exclude/1", "unknown_calendar"),
        ("/schedule/calendar", "not_allowed"),
    ]
    assert "did you mean black-outs?" in problems[1].message


def test_calendar_named_by_a_concurrent_schedule_is_not_removed(database: Database) -> None:
    with database.write() as connection:
        calendar_rows.upsert(connection, "office", BUSINESS_CALENDAR, JobOwner.API, "ann", NOW)
    refused: list[str] = []

    def remove() -> None:
        try:
            calendar_changes.remove(database, ManualClock(NOW), "office", None, "bob")
        except CalendarInUse as error:
            refused.append(error.detail)

    thread = threading.Thread(target=remove)
    with database.write() as connection:
        values.load_calendars(connection, ["office"], lock=True)
        thread.start()
        thread.join(timeout=1)
        assert thread.is_alive()
        schedule_rows.upsert(connection, _put_schedule("a", exclude=["office"]), ScheduleOwner.API, "ann", NOW, LATER)
    thread.join(timeout=60)
    assert refused == ["calendar office is named by schedule a; change or delete it first"]


def test_rolled_back_calendar_change_leaves_nothing_in_the_cache(database: Database) -> None:
    with database.write() as connection:
        calendar_rows.upsert(connection, "office", BUSINESS_CALENDAR, JobOwner.API, "ann", NOW)
        tried = connection.begin_nested()
        calendar_rows.upsert(connection, "office", BLACKOUT_CALENDAR, JobOwner.API, "ann", LATER)
        assert values.load_calendars(connection, ["office"])["office"].to_json() == BLACKOUT_CALENDAR
        tried.rollback()
        assert values.load_calendars(connection, ["office"])["office"].to_json() == BUSINESS_CALENDAR
