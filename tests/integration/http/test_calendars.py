"""Calendars over HTTP: created, read, changed and deleted; schedules follow the changes."""

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.clock import SystemClock
from jobworker.domain.calendars.calendars import DateCalendar
from jobworker.domain.jobs.definition import JobOwner
from jobworker.services.calendars import calendar_changes
from jobworker.store.calendars import calendar_rows
from jobworker.store.tables.schedules import job_schedules, occurrences
from tests.integration.http.conftest import ApiDriver

BUSINESS_CALENDAR: dict[str, Any] = {
    "name": "office",
    "kind": "business",
    "holidays": [{"country": "DE", "subdivision": "BY"}],
    "closed": {"2026-12-24": "Christmas Eve"},
    "hours": {day: ["09:00-17:00"] for day in ("monday", "tuesday", "wednesday", "thursday", "friday")},
}
DATES_CALENDAR: dict[str, Any] = {"name": "black-outs", "kind": "dates", "days": {"2026-06-30": "stocktaking"}}
ROOT = "/api/v1/calendars"


def request_calendar(api: ApiDriver, fields: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Request the creation of a calendar with the default fields, or with those given."""
    return api.client.post(ROOT, json={**(fields or BUSINESS_CALENDAR), **changes})


def create_calendar(api: ApiDriver, fields: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Create a calendar and return it."""
    response = request_calendar(api, fields, **changes)
    assert response.status_code == 201, response.json
    calendar: dict[str, Any] = response.json
    return calendar


def replace_calendar(api: ApiDriver, fields: dict[str, Any], name: str = "office", revision: int | str = "*") -> Any:
    """Replace a calendar."""
    match = revision if revision == "*" else f'"{revision}"'
    return api.client.put(f"{ROOT}/{name}", json=fields, headers={"If-Match": match})


def create_schedule(api: ApiDriver, name: str, rule: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Create a schedule and return it."""
    body = {"name": name, "job": "export", "rule": rule, "parameters": {"user_id": "all"}, **fields}
    response = api.client.post("/api/v1/schedules", json=body)
    assert response.status_code == 201, response.json
    schedule: dict[str, Any] = response.json
    return schedule


def test_calendar_is_created_and_read(any_api: ApiDriver) -> None:
    created = request_calendar(any_api)
    assert created.status_code == 201, created.json
    assert (created.headers["Location"], created.headers["ETag"]) == (f"{ROOT}/office", '"1"')
    read = any_api.client.get(f"{ROOT}/office")
    assert (read.json, read.headers["ETag"]) == (created.json, '"1"')
    shown = read.json
    assert {name: shown[name] for name in BUSINESS_CALENDAR} == BUSINESS_CALENDAR
    assert (shown["weekend"], shown["opened"], shown["owner"]) == (["saturday", "sunday"], [], "api")
    unchanged = any_api.client.get(f"{ROOT}/office", headers={"If-None-Match": '"1"'})
    assert unchanged.status_code == 304


def test_calendars_are_listed_without_their_dates(api: ApiDriver) -> None:
    create_calendar(api)
    create_calendar(api, DATES_CALENDAR, description="When nothing may run")
    listed = api.client.get(f"{ROOT}?limit=1").json
    [first] = listed["items"]
    assert (first["name"], first["kind"], first["description"]) == ("black-outs", "dates", "When nothing may run")
    assert "days" not in first
    [second] = api.client.get(f"{ROOT}?limit=1&cursor={listed['next']}").json["items"]
    assert second["name"] == "office"


def test_duplicate_calendar_name_is_rejected(api: ApiDriver) -> None:
    create_calendar(api)
    response = request_calendar(api, DATES_CALENDAR, name="office")
    assert (response.status_code, response.json["code"]) == (409, "calendar_exists")


def test_unknown_calendar_returns_404_with_suggestions(api: ApiDriver) -> None:
    response = api.client.get(f"{ROOT}/ofice")
    assert (response.status_code, response.json["code"]) == (404, "calendar_not_found")
    assert "and no other yet" in response.json["detail"]
    create_calendar(api)
    for path in ("ofice", "ofice/days?from=2026-01-01&to=2026-01-02", "ofice/revisions", "ofice/revisions/1"):
        response = api.client.get(f"{ROOT}/{path}")
        assert (response.status_code, response.json["code"]) == (404, "calendar_not_found")
        assert "did you mean office?" in response.json["detail"]


def test_invalid_calendar_returns_all_problems_at_once(api: ApiDriver) -> None:
    response = request_calendar(api, name="a b", weekend=["frunday"], holidays=[{"country": "Germany"}])
    assert (response.status_code, response.json["code"]) == (422, "invalid_input")
    codes = {error["pointer"]: error["code"] for error in response.json["errors"]}
    expected = {"/name": "not_allowed", "/weekend/0": "not_allowed", "/holidays/0/country": "unknown_country"}
    assert codes == expected
    assert "did you mean DE (Germany)?" in response.json["detail"]
    assert (
        api.client.post(ROOT, json={**BUSINESS_CALENDAR, "colour": "red"}).json["errors"][0]["code"] == "unknown_field"
    )
    wrong_kind = request_calendar(api, DATES_CALENDAR, weekend=["saturday"]).json["errors"]
    assert [(error["pointer"], error["code"]) for error in wrong_kind] == [("/weekend", "unknown_field")]


def test_replace_requires_the_current_revision(any_api: ApiDriver) -> None:
    create_calendar(any_api)
    assert any_api.client.put(f"{ROOT}/office", json=BUSINESS_CALENDAR).status_code == 428
    changed = replace_calendar(any_api, {**BUSINESS_CALENDAR, "closed": ["2026-12-31"]}, revision=1)
    assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
    assert changed.json["closed"] == {"2026-12-31": "closed"}
    late = replace_calendar(any_api, BUSINESS_CALENDAR, revision=1)
    assert (late.status_code, late.json["code"]) == (412, "precondition_failed")
    renamed = replace_calendar(any_api, {**BUSINESS_CALENDAR, "name": "other"})
    assert (renamed.status_code, renamed.json["errors"][0]["pointer"]) == (422, "/name")
    again = replace_calendar(any_api, {"kind": "business", "closed": ["2026-12-31"]}, revision=2)
    assert (again.json["revision"], again.json["hours"]) == (3, None)


def test_revisions_outlive_their_calendar(any_api: ApiDriver) -> None:
    create_calendar(any_api)
    replace_calendar(any_api, {"kind": "business"})
    assert any_api.client.delete(f"{ROOT}/office").status_code == 428
    gone = any_api.client.delete(f"{ROOT}/office", headers={"If-Match": '"2"'})
    assert gone.status_code == 204
    assert any_api.client.get(f"{ROOT}/office").status_code == 404
    revisions = any_api.client.get(f"{ROOT}/office/revisions").json["items"]
    assert [(revision["revision"], revision["actor"]) for revision in revisions] == [(2, "api"), (1, "api")]
    first = any_api.client.get(f"{ROOT}/office/revisions/1").json
    assert first == revisions[1]
    assert revisions[0]["changed"] is not None
    assert "/closed/2026-12-24" in revisions[0]["changed"]
    assert first["changed"] is None
    [latest] = any_api.client.get(f"{ROOT}/office/revisions?limit=1").json["items"]
    assert latest == any_api.client.get(f"{ROOT}/office/revisions/2").json == revisions[0]
    assert first["definition"]["closed"] == BUSINESS_CALENDAR["closed"]
    assert create_calendar(any_api)["revision"] == 3
    unknown = any_api.client.get(f"{ROOT}/office/revisions/9")
    assert (unknown.status_code, unknown.json["code"]) == (404, "revision_not_found")


def test_calendar_days_are_listed_with_their_windows(api: ApiDriver) -> None:
    create_calendar(api)
    days = api.client.get(f"{ROOT}/office/days?from=2026-12-23&to=2026-12-29").json["items"]
    assert days == [
        {"date": "2026-12-23", "weekday": "wednesday", "name": None, "holds": ["09:00-17:00"]},
        {"date": "2026-12-24", "weekday": "thursday", "name": "Christmas Eve", "holds": []},
        {"date": "2026-12-25", "weekday": "friday", "name": "Christmas Day", "holds": []},
        {"date": "2026-12-26", "weekday": "saturday", "name": "Second Day of Christmas", "holds": []},
        {"date": "2026-12-28", "weekday": "monday", "name": None, "holds": ["09:00-17:00"]},
    ]
    window = {"from": "2026-12-31T22:00", "to": "2027-01-01T06:00", "name": "year's end"}
    create_calendar(api, DATES_CALENDAR, windows=[window])
    days = api.client.get(f"{ROOT}/black-outs/days?from=2026-06-29&to=2027-06-29").json["items"]
    assert [(day["date"], day["name"], day["holds"]) for day in days] == [
        ("2026-06-30", "stocktaking", ["00:00-24:00"]),
        ("2026-12-31", "year's end", ["22:00-24:00"]),
        ("2027-01-01", "year's end", ["00:00-06:00"]),
    ]


@pytest.mark.parametrize(
    ("query", "place", "code"),
    [
        ("from=2026-02-30&to=2026-03-01", "from", "not_allowed"),
        ("from=2026-2-3&to=2026-03-01", "from", "wrong_type"),
        ("from=2026-03-01&to=2026-03-01", "to", "not_allowed"),
        ("from=2026-03-01&to=2027-03-03", "to", "not_allowed"),
        ("to=2026-03-01", "from", "missing"),
    ],
)
def test_invalid_range_of_days_returns_422_with_pointer(api: ApiDriver, query: str, place: str, code: str) -> None:
    create_calendar(api)
    response = api.client.get(f"{ROOT}/office/days?{query}")
    assert response.status_code == 422
    assert [(error["pointer"], error["code"]) for error in response.json["errors"]] == [(place, code)]


def test_countries_are_listed_with_subdivisions(api: ApiDriver) -> None:
    countries = {country["code"]: country for country in api.client.get("/api/v1/countries").json["items"]}
    assert len(countries) > 200
    assert countries["DE"]["name"] == "Germany"
    assert {"BY", "BE"} <= set(countries["DE"]["subdivisions"])


def test_calendar_declared_in_code_cannot_be_changed(api: ApiDriver) -> None:
    with api.database.write() as connection:
        dates = DateCalendar({dt.date(2026, 6, 30): "stocktaking"})
        calendar_changes.save(connection, "black-outs", dates, JobOwner.CODE, "code:v1", SystemClock().now())
    assert api.client.get(f"{ROOT}/black-outs").json["owner"] == "code"
    deleted = api.client.delete(f"{ROOT}/black-outs", headers={"If-Match": "*"})
    for response in (replace_calendar(api, DATES_CALENDAR, "black-outs"), deleted):
        assert (response.status_code, response.json["code"]) == (409, "calendar_owned_by_code")


def test_calendar_in_use_cannot_be_deleted(any_api: ApiDriver) -> None:
    create_calendar(any_api)
    daily = {"kind": "daily", "time": "06:00"}
    create_schedule(any_api, "z", daily, require=["office"])
    create_schedule(any_api, "a", daily, exclude=["office"])
    response = any_api.client.delete(f"{ROOT}/office", headers={"If-Match": "*"})
    assert (response.status_code, response.json["code"]) == (409, "calendar_in_use")
    assert "named by schedules a, z;" in response.json["detail"]
    for name in ("a", "z"):
        gone = any_api.client.delete(f"/api/v1/schedules/{name}", headers={"If-Match": "*"})
        assert gone.status_code == 204
    assert any_api.client.delete(f"{ROOT}/office", headers={"If-Match": "*"}).status_code == 204


def test_business_day_rule_requires_a_business_calendar(any_api: ApiDriver) -> None:
    create_calendar(any_api)
    rule = {"kind": "business_day", "n": 1, "time": "06:00"}
    create_schedule(any_api, "first", rule, calendar="office")
    response = replace_calendar(any_api, {**DATES_CALENDAR, "name": "office"})
    assert (response.status_code, response.json["code"]) == (409, "calendar_in_use")
    assert "in schedule first" in response.json["detail"]
    create_calendar(any_api, DATES_CALENDAR)
    body = {"name": "x", "job": "export", "parameters": {"user_id": "u"}, "rule": rule, "calendar": "black-outs"}
    refused = any_api.client.post("/api/v1/schedules", json={**body, "exclude": ["offise"]})
    errors = [(error["pointer"], error["code"]) for error in refused.json["errors"]]
    assert errors == [("/exclude/0", "unknown_calendar"), ("/calendar", "not_allowed")]


def test_calendar_change_updates_next_at_of_its_schedules(any_api: ApiDriver) -> None:
    create_calendar(any_api, holidays=[])
    rule = {"kind": "business_day", "n": 1, "time": "06:00"}
    first = create_schedule(any_api, "first", rule, calendar="office", zone="Europe/Berlin")
    weekly = create_schedule(
        any_api, "weekly", {"kind": "weekly", "days": ["monday"], "time": "06:00"}, exclude=["office"]
    )
    before = dt.datetime.fromisoformat(first["next_at"])
    assert (
        replace_calendar(
            any_api, {**BUSINESS_CALENDAR, "holidays": [], "closed": [before.date().isoformat()]}
        ).status_code
        == 200
    )
    after = any_api.client.get("/api/v1/schedules/first").json
    following = dt.datetime.fromisoformat(after["next_at"])
    assert before < following <= before + dt.timedelta(days=4)
    assert (after["revision"], after["state"]) == (1, "active")
    assert after["changed_at"] > first["changed_at"]
    # Dates that a calendar only forbids are evaluated at the occurrence.
    assert any_api.client.get("/api/v1/schedules/weekly").json["next_at"] == weekly["next_at"]


def test_calendar_change_keeps_schedule_with_max_runs_reached_exhausted(any_api: ApiDriver) -> None:
    create_calendar(any_api, holidays=[])
    rule = {"kind": "business_day", "n": 1, "time": "06:00"}
    schedule = create_schedule(any_api, "once", rule, calendar="office", max_runs=1)
    with any_api.database.write() as connection:
        ended = {"runs": 1, "state": "exhausted", "next_at": None}
        connection.execute(sa.update(job_schedules).where(job_schedules.c.id == schedule["id"]).values(ended))
    assert replace_calendar(any_api, {"kind": "business", "weekend": []}).status_code == 200
    after = any_api.client.get("/api/v1/schedules/once").json
    assert (after["state"], after["next_at"]) == ("exhausted", None)


def test_due_occurrences_are_evaluated_with_the_previous_calendar(any_api: ApiDriver) -> None:
    create_calendar(any_api, holidays=[])
    rule = {"kind": "business_day", "n": 1, "time": "00:00"}
    schedule = create_schedule(any_api, "first", rule, calendar="office")
    now = SystemClock().now()
    begins = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    table = job_schedules
    with any_api.database.write() as connection:
        # The schedule was not evaluated since the beginning of the month, whose first business day was before today.
        values = {"settled_until": begins - dt.timedelta(days=40), "next_at": begins - dt.timedelta(days=39)}
        connection.execute(sa.update(table).where(table.c.id == schedule["id"]).values(values))
    assert replace_calendar(any_api, {"kind": "business", "weekend": []}).status_code == 200
    with any_api.database.read() as connection:
        ledger = sa.select(occurrences.c.scheduled_for).where(occurrences.c.schedule_id == schedule["id"])
        scheduled_times = list(connection.scalars(ledger.order_by(occurrences.c.scheduled_for)))
        row = connection.execute(sa.select(table).where(table.c.id == schedule["id"])).one()
        assert calendar_rows.get_current_revisions(connection, ["office"])["office"][0] == 2
    assert scheduled_times
    assert all(moment.weekday() < 5 for moment in scheduled_times)
    assert row.settled_until >= now
    assert row.next_at.day == 1
