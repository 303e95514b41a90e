"""Calendars, their revisions, and the values that are made of them."""

import datetime as dt
import threading
from typing import Any

import pytest

from jobworker.clock import ManualClock
from jobworker.domain.calendars import Business, Dates
from jobworker.domain.errors import CalendarInUse, CalendarNotFound
from jobworker.domain.job import Owner
from jobworker.domain.schedule import Owner as ScheduleOwner
from jobworker.domain.schedule import parse
from jobworker.services import calendar_editing
from jobworker.services import calendars as values
from jobworker.store import audit, calendars, schedules
from jobworker.store.database import Database
from tests.conformance.worlds import NOW

LATER = NOW + dt.timedelta(hours=1)
OFFICE = Business(closed={dt.date(2026, 12, 24): "Christmas Eve"}).to_json()
BLACK_OUTS = Dates({dt.date(2026, 3, 3): "stocktaking"}).to_json()


def _schedule(name: str, **given: Any) -> Any:
    return parse({"name": name, "job": "send", "rule": {"kind": "daily", "time": "06:00"}, **given})


def test_what_was_put_is_read_back(database: Database) -> None:
    with database.write() as connection:
        put = calendars.put(connection, "office", OFFICE, Owner.API, "ann", NOW)
    with database.read() as connection:
        assert calendars.get(connection, "office") == put
        assert calendars.get(connection, "other") is None
        assert calendars.some(connection, ["office", "other"]) == {"office": put}
        assert calendars.current(connection, ["office", "other"]) == {"office": (1, NOW)}
        assert calendars.names_around(connection, "offices") == ["office"]
    assert (put.revision, put.owner, put.spec, put.created_at, put.changed_at) == (1, Owner.API, OFFICE, NOW, NOW)


def test_each_change_makes_a_revision_that_stays(database: Database) -> None:
    with database.write() as connection:
        calendars.put(connection, "office", OFFICE, Owner.API, "ann", NOW)
        second = calendars.put(connection, "office", BLACK_OUTS, Owner.API, "bob", LATER)
        assert calendars.put(connection, "office", BLACK_OUTS, Owner.API, "cat", LATER) == second
        assert (second.revision, second.created_at, second.changed_at) == (2, NOW, LATER)
        calendars.delete(connection, second, "dan", LATER)
        assert calendars.get(connection, "office") is None
        assert calendars.put(connection, "office", OFFICE, Owner.CODE, "code", LATER).revision == 3
        found = calendars.revisions(connection, "office").items
        first = calendars.revision_row(connection, "office", 1)
        entries = audit.of(connection, "office")
    assert [(row.revision, row.actor, row.spec) for row in found] == [
        (3, "code", OFFICE),
        (2, "bob", BLACK_OUTS),
        (1, "ann", OFFICE),
    ]
    assert first == found[2]
    assert [(entry.actor, entry.action) for entry in entries] == [
        ("ann", "calendar.create"),
        ("bob", "calendar.change"),
        ("dan", "calendar.delete"),
        ("code", "calendar.create"),
    ]


def test_pages(database: Database) -> None:
    with database.write() as connection:
        for name in ("c", "a", "b"):
            calendars.put(connection, name, OFFICE, Owner.API, "ann", NOW)
        calendars.put(connection, "a", BLACK_OUTS, Owner.API, "ann", NOW)
    with database.read() as connection:
        first = calendars.page(connection, 2)
        assert [row.name for row in first.items] == ["a", "b"]
        assert [row.name for row in calendars.page(connection, 2, first.next).items] == ["c"]
        latest = calendars.revisions(connection, "a", 1)
        assert [row.revision for row in calendars.revisions(connection, "a", 1, latest.next).items] == [1]


def test_which_schedules_use_it(database: Database) -> None:
    given = [("z", {"exclude": ["holidays"]}), ("a", {"require": ["holidays", "office"]}), ("none", {})]
    with database.write() as connection:
        for name, fields in given:
            schedules.put(connection, _schedule(name, **fields), ScheduleOwner.API, "ann", NOW, LATER)
        assert [row.name for row in calendars.users(connection, "holidays")] == ["z", "a"]
        assert [row.name for row in calendars.users(connection, "office")] == ["a"]
        assert calendars.users(connection, "other") == []


@pytest.mark.parametrize("lock", [False, True])
def test_values_follow_every_change(database: Database, lock: bool) -> None:
    with database.write() as connection:
        calendars.put(connection, "office", OFFICE, Owner.API, "ann", NOW)
        calendars.put(connection, "black-outs", BLACK_OUTS, Owner.API, "ann", NOW)
        found = values.known(connection, ["office", "black-outs"], lock)
        assert {name: each.to_json() for name, each in found.items()} == {"office": OFFICE, "black-outs": BLACK_OUTS}
        assert values.known(connection, ["office"], lock)["office"] is found["office"]
        # At the same moment, too: tests' clocks stand still.
        calendars.put(connection, "office", BLACK_OUTS, Owner.API, "ann", NOW)
        assert values.known(connection, ["office"], lock)["office"].to_json() == BLACK_OUTS
        assert values.known(connection, (), lock) == {}


def test_an_unknown_calendar_is_told_with_those_that_come_close(database: Database) -> None:
    with database.write() as connection:
        with pytest.raises(CalendarNotFound, match="nor any other yet: POST /api/v1/calendars makes one"):
            values.known(connection, ["office"])
        calendars.put(connection, "office", OFFICE, Owner.API, "ann", NOW)
        with pytest.raises(CalendarNotFound, match=r"no calendar 'ofice'; did you mean office.*no calendar 'x'"):
            values.known(connection, ["ofice", "office", "x"])


def test_what_is_wrong_with_the_calendars_of_a_schedule(database: Database) -> None:
    rule = {"kind": "business_day", "n": 1, "time": "18:00"}
    with database.write() as connection:
        calendars.put(connection, "office", OFFICE, Owner.API, "ann", NOW)
        calendars.put(connection, "black-outs", BLACK_OUTS, Owner.API, "ann", NOW)
        good = _schedule("a", rule=rule, calendar="office", exclude=["black-outs"], require=["office"])
        assert values.problems(connection, good) == []
        bad = _schedule("a", rule=rule, calendar="black-outs", exclude=["office", "blackouts"], require=["x"])
        found = values.problems(connection, bad, "/schedule")
    assert [(each.pointer, each.code) for each in found] == [
        ("/schedule/require/0", "unknown_calendar"),
        ("/schedule/exclude/1", "unknown_calendar"),
        ("/schedule/calendar", "not_allowed"),
    ]
    assert "did you mean black-outs?" in found[1].message


def test_a_calendar_stays_while_somebody_enters_a_schedule_that_names_it(database: Database) -> None:
    with database.write() as connection:
        calendars.put(connection, "office", OFFICE, Owner.API, "ann", NOW)
    refused: list[str] = []

    def remove() -> None:
        try:
            calendar_editing.remove(database, ManualClock(NOW), "office", None, "bob")
        except CalendarInUse as error:
            refused.append(error.detail)

    other = threading.Thread(target=remove)
    with database.write() as connection:
        values.known(connection, ["office"], lock=True)
        other.start()
        other.join(timeout=1)
        assert other.is_alive()
        schedules.put(connection, _schedule("a", exclude=["office"]), ScheduleOwner.API, "ann", NOW, LATER)
    other.join(timeout=60)
    assert refused == ["calendar office is named by schedule a; change or delete it first"]


def test_a_change_that_is_undone_leaves_nothing_behind(database: Database) -> None:
    with database.write() as connection:
        calendars.put(connection, "office", OFFICE, Owner.API, "ann", NOW)
        tried = connection.begin_nested()
        calendars.put(connection, "office", BLACK_OUTS, Owner.API, "ann", LATER)
        assert values.known(connection, ["office"])["office"].to_json() == BLACK_OUTS
        tried.rollback()
        assert values.known(connection, ["office"])["office"].to_json() == OFFICE
