"""Calendars: included times, JSON form, and the problems reported for invalid ones."""

import datetime as dt
import subprocess
import sys
from typing import Any

import pytest

from jobworker.domain.calendars.calendar_parser import MAX_DATES, parse
from jobworker.domain.calendars.calendars import (
    BusinessCalendar,
    Calendar,
    find_next_excluded_time,
    find_next_included_time,
)
from jobworker.domain.calendars.public_holidays import get_holidays, list_countries
from jobworker.domain.errors import FieldError, InvalidInput

BUSINESS = {
    "kind": "business",
    "description": "The office in Munich",
    "weekend": ["saturday", "sunday"],
    "holidays": [{"country": "DE", "subdivision": "BY"}],
    "closed": {"2026-12-24": "Christmas Eve", "2026-12-31": "New Year's Eve"},
    "opened": ["2026-12-19"],
    "hours": {
        "monday": ["09:00-12:30", "13:30-18:00"],
        "tuesday": ["09:00-18:00"],
        "wednesday": ["09:00-18:00"],
        "thursday": ["09:00-18:00"],
        "friday": ["09:00-24:00"],
    },
}
DATES = {
    "kind": "dates",
    "description": "Black-outs",
    "days": {"2026-06-30": "stocktaking"},
    "windows": [
        {"from": "2026-12-31T22:00", "to": "2027-01-01T06:00", "name": "year's end"},
        {"from": "2027-02-01T00:00:30", "to": "2027-02-03T00:00", "name": "move"},
    ],
    "holidays": [{"country": "FR", "subdivision": None}],
}


def parse_time(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def list_problems(value: object) -> list[FieldError]:
    with pytest.raises(InvalidInput) as raised:
        parse(value)
    assert all(problem.message for problem in raised.value.errors)
    return list(raised.value.errors)


def make_business(**fields: Any) -> BusinessCalendar:
    calendar = parse({"kind": "business", **fields})
    assert isinstance(calendar, BusinessCalendar)
    return calendar


def make_dates(**fields: Any) -> Calendar:
    return parse({"kind": "dates", **fields})


@pytest.mark.parametrize("fields", [BUSINESS, DATES])
def test_calendar_json_round_trip(fields: dict[str, Any]) -> None:
    shown = parse(fields).to_json()
    assert shown == fields
    assert parse(shown) == parse(fields)


def test_omitted_calendar_fields_have_defaults() -> None:
    assert make_business() == BusinessCalendar()
    assert make_business(closed=["2026-12-24"]).find_day_name(dt.date(2026, 12, 24)) == "closed"
    assert make_dates(days=["2026-12-24"]).find_day_name(dt.date(2026, 12, 24)) == "listed"
    window = {"from": "2026-01-01T00:00", "to": "2026-01-01T01:00"}
    assert make_dates(windows=[window]).find_day_name(dt.date(2026, 1, 1)) == "listed"


@pytest.mark.parametrize(
    ("country", "subdivision", "day", "name"),
    [
        ("DE", None, "2026-01-06", None),
        ("DE", "BY", "2026-01-06", "Epiphany"),
        ("DE", None, "2026-04-03", "Good Friday"),
        ("US", None, "2026-11-26", "Thanksgiving Day"),
        # The 4th of July 2026 is a Saturday: Friday is free.
        ("US", None, "2026-07-03", "Independence Day (observed)"),
        ("GB", "SCT", "2026-11-30", "Saint Andrew's Day"),
        ("GB", "ENG", "2026-11-30", None),
        ("FR", None, "2028-07-14", "National Day"),
        ("JP", None, "2026-05-05", "Children's Day"),
        ("BR", None, "2027-09-07", "Independence Day"),
        ("IN", None, "2026-08-15", "Independence Day"),
        ("SA", None, "2026-09-23", "National Day Holiday"),
        # The 16th of June 2024 was a Sunday: Monday was free, too.
        ("ZA", None, "2024-06-17", "Youth Day (observed)"),
        ("ZA", None, "2024-06-16", "Youth Day"),
    ],
)
def test_country_holidays_found_by_date(country: str, subdivision: str | None, day: str, name: str | None) -> None:
    calendar = make_business(weekend=[], holidays=[{"country": country, "subdivision": subdivision}])
    assert calendar.find_day_name(dt.date.fromisoformat(day)) == name
    assert calendar.is_business_day(dt.date.fromisoformat(day)) == (name is None)


def test_holidays_of_every_country_computed_for_any_year() -> None:
    assert len(list_countries()) > 200
    for country in list_countries():
        for year in (1970, 2026, 2399):
            assert all(day.year == year for day in get_holidays(country.code, None, year))


def test_holidays_of_several_countries_combined() -> None:
    calendar = make_business(holidays=[{"country": "US"}, {"country": "DE"}])
    names = [calendar.find_day_name(dt.date(2026, month, day)) for month, day in ((11, 26), (5, 1), (5, 4))]
    assert names == ["Thanksgiving Day", "Labor Day", None]


def test_opened_day_overrides_holiday_and_weekend() -> None:
    calendar = make_business(holidays=[{"country": "DE"}], opened=["2026-12-25", "2026-12-27"])
    assert calendar.is_time_included(parse_time("2026-12-25T10:00"))
    assert calendar.is_time_included(parse_time("2026-12-27T10:00"))
    assert not calendar.is_time_included(parse_time("2026-12-26T10:00"))


def test_business_hours_include_only_listed_times() -> None:
    calendar = parse(BUSINESS)
    held = ["2026-03-02T09:00", "2026-03-02T12:29:59", "2026-03-02T13:30", "2026-03-06T23:59:59"]
    others = ["2026-03-02T08:59:59", "2026-03-02T12:30", "2026-03-02T18:00", "2026-03-07T10:00", "2026-12-24T10:00"]
    assert [calendar.is_time_included(parse_time(time)) for time in held] == [True] * len(held)
    assert [calendar.is_time_included(parse_time(time)) for time in others] == [False] * len(others)
    # `hours` lists none for the opened Saturday, so the whole day is included.
    assert calendar.get_time_ranges(dt.date(2026, 12, 19)) == ((dt.time(), None),)


def test_opened_weekend_day_uses_its_hours() -> None:
    calendar = make_business(opened=["2026-12-19"], hours={"monday": ["09:00-17:00"], "saturday": ["10:00-14:00"]})
    assert calendar.get_time_ranges(dt.date(2026, 12, 19)) == ((dt.time(10), dt.time(14)),)


def test_weekday_without_hours_is_not_a_business_day() -> None:
    calendar = make_business(weekend=[], hours={"monday": ["09:00-17:00"], "tuesday": []})
    assert calendar.list_business_days(dt.date(2026, 3, 1)) == [dt.date(2026, 3, day) for day in (2, 9, 16, 23, 30)]


def test_business_days_of_december_9999_listed() -> None:
    assert make_business().list_business_days(dt.date(9999, 12, 1))[-1] == dt.date(9999, 12, 31)


def test_blackout_window_over_midnight_ends_on_the_later_day() -> None:
    calendar = parse(DATES)
    held = ["2026-12-31T22:00", "2026-12-31T23:59:59", "2027-01-01T00:00", "2027-02-01T00:00:30", "2027-02-02T12:00"]
    others = ["2026-12-31T21:59:59", "2027-01-02T00:00", "2027-02-01T00:00:29", "2027-02-03T00:00"]
    assert [calendar.is_time_included(parse_time(time)) for time in held] == [True] * len(held)
    assert [calendar.is_time_included(parse_time(time)) for time in others] == [False] * len(others)
    alone = make_dates(windows=DATES["windows"])
    assert not alone.is_time_included(parse_time("2027-01-01T06:00"))
    assert find_next_excluded_time(alone, parse_time("2026-12-31T23:00")) == parse_time("2027-01-01T06:00")
    assert find_next_included_time(alone, parse_time("2026-12-31T21:00")) == parse_time("2026-12-31T22:00")
    assert find_next_excluded_time(alone, parse_time("2027-02-01T12:00")) == parse_time("2027-02-03T00:00")
    assert [alone.find_day_name(dt.date(2027, *day)) for day in ((1, 1), (2, 2), (2, 3))] == [
        "year's end",
        "move",
        None,
    ]


def test_overlapping_windows_merged() -> None:
    spans = [("10:00", "12:00"), ("11:00", "11:30"), ("12:00", "13:00"), ("14:00", "15:00")]
    calendar = make_dates(windows=[{"from": f"2026-03-02T{begin}", "to": f"2026-03-02T{end}"} for begin, end in spans])
    expected = [(dt.time(10), dt.time(13)), (dt.time(14), dt.time(15))]
    assert calendar.get_time_ranges(dt.date(2026, 3, 2)) == expected
    minutes = [parse_time("2026-03-02T09:00") + dt.timedelta(minutes=number) for number in range(420)]
    assert sum(calendar.is_time_included(minute) for minute in minutes) == 240


@pytest.mark.parametrize(
    ("value", "place", "code", "says"),
    [
        (17, "", "wrong_type", "must be a JSON object"),
        ({}, "/kind", "missing", "kind is required"),
        ({"kind": "lunar"}, "/kind", "not_allowed", "kind must be one of business, dates"),
        ({"kind": "dates"}, "/days", "empty", "give days, windows or holidays"),
        ({"kind": "dates", "day": []}, "/day", "unknown_field", "valid fields are: days, description, holidays"),
        ({"kind": "dates", "days": {"2026-02-30": "x"}}, "/days/2026-02-30", "not_allowed", "there is no 2026-02-30"),
        ({"kind": "dates", "days": ["2026-02-30"]}, "/days/0", "not_allowed", "there is no 2026-02-30"),
        ({"kind": "dates", "days": ["20260301"]}, "/days/0", "wrong_type", "'20260301' is not a date such as"),
        ({"kind": "dates", "days": {"1.3./26": "x"}}, "/days/1.3.~126", "wrong_type", "is not a date such as"),
        ({"kind": "dates", "days": ["0026-03-01"]}, "/days/0", "not_allowed", "not in 1970 to 2399"),
        ({"kind": "dates", "days": {"2026-03-01": ""}}, "/days/2026-03-01", "wrong_type", "1 to 200 printable"),
        ({"kind": "dates", "days": "2026-03-01"}, "/days", "wrong_type", "or a list of dates"),
        ({"kind": "dates", "windows": {}}, "/windows", "wrong_type", "a list of objects with from and to"),
        ({"kind": "dates", "windows": [{"from": "2026-03-01T10:00"}]}, "/windows/0/to", "missing", "to is required"),
        (
            {"kind": "dates", "windows": [{"from": "2026-03-01T10:00", "to": "2026-03-01T10:00"}]},
            "/windows/0/to",
            "not_allowed",
            "to must be later than from, 2026-03-01T10:00",
        ),
        (
            {"kind": "dates", "windows": [{"from": "2026-03-01", "to": "2026-03-02T00:00"}]},
            "/windows/0/from",
            "wrong_type",
            "a time on the wall clock such as 2026-12-31T22:00",
        ),
        (
            {"kind": "dates", "windows": [{"from": "2026-03-01T10:00Z", "to": "2026-03-02T00:00"}]},
            "/windows/0/from",
            "wrong_type",
            "without an offset",
        ),
        (
            {"kind": "dates", "windows": [{"from": "2026-03-01T25:00", "to": "2026-03-02T00:00"}]},
            "/windows/0/from",
            "not_allowed",
            "there is no 2026-03-01T25:00",
        ),
        ({"kind": "business", "weekend": ["Caturday"]}, "/weekend/0", "not_allowed", "the days are monday, tuesday"),
        (
            {"kind": "business", "weekend": [*BUSINESS["hours"], "saturday", "sunday"]},
            "/weekend",
            "empty",
            "the calendar has no business day",
        ),
        ({"kind": "business", "hours": {}}, "/weekend", "empty", "the calendar has no business day"),
        (
            {"kind": "business", "hours": {"monday": ["09:00-17:00"], "saturday": ["10:00-14:00"]}},
            "/hours/saturday",
            "not_allowed",
            "saturday is in weekend",
        ),
        ({"kind": "business", "hours": []}, "/hours", "wrong_type", '{"monday": ["09:00-17:00"]}'),
        ({"kind": "business", "hours": {"Mon": []}}, "/hours/Mon", "not_allowed", "'Mon' is not a day of the week"),
        ({"kind": "business", "hours": {"monday": "9-17"}}, "/hours/monday", "wrong_type", "must be a list of at most"),
        ({"kind": "business", "hours": {"monday": ["9-17"]}}, "/hours/monday/0", "wrong_type", '"09:00-17:00"'),
        ({"kind": "business", "hours": {"monday": ["09:00-24:30"]}}, "/hours/monday/0", "wrong_type", "spans such as"),
        (
            {"kind": "business", "hours": {"monday": ["22:00-06:00"]}},
            "/hours/monday/0",
            "not_allowed",
            "split it at midnight",
        ),
        (
            {"kind": "business", "hours": {"monday": ["09:00-12:00", "11:00-13:00"]}},
            "/hours/monday/1",
            "not_allowed",
            "begins before the span before it ends",
        ),
        (
            {"kind": "business", "closed": ["2026-03-02"], "opened": ["2026-03-02"]},
            "/opened",
            "not_allowed",
            "2026-03-02 cannot be both closed and opened",
        ),
        ({"kind": "business", "holidays": {"country": "DE"}}, "/holidays", "wrong_type", "holidays must be a list"),
        ({"kind": "business", "holidays": [{}]}, "/holidays/0/country", "missing", "country is required"),
        (
            {"kind": "business", "holidays": [{"country": "Germany"}]},
            "/holidays/0/country",
            "unknown_country",
            "did you mean DE (Germany)",
        ),
        ({"kind": "business", "holidays": [{"country": "de"}]}, "/holidays/0/country", "unknown_country", "mean DE"),
        ({"kind": "business", "holidays": [{"country": "XX"}]}, "/holidays/0/country", "unknown_country", "such as DE"),
        (
            {"kind": "business", "holidays": [{"country": "DE", "subdivision": "Bayer"}]},
            "/holidays/0/subdivision",
            "unknown_subdivision",
            "did you mean BY? known are: BB, BE",
        ),
        (
            {"kind": "business", "holidays": [{"country": "VA", "subdivision": "X"}]},
            "/holidays/0/subdivision",
            "unknown_subdivision",
            "leave subdivision out",
        ),
    ],
)
def test_invalid_calendar_reported_with_pointer_and_code(value: object, place: str, code: str, says: str) -> None:
    problems = list_problems(value)
    assert (place, code) in [(problem.pointer, problem.code) for problem in problems]
    assert says in " ".join(problem.message for problem in problems)


def test_calendar_problems_all_reported_at_once() -> None:
    fields = {"kind": "business", "weekend": ["x"], "closed": {"2026-13-01": "y"}, "holidays": [{"country": "XX"}]}
    places = {problem.pointer for problem in list_problems(fields)}
    assert places == {"/weekend/0", "/closed/2026-13-01", "/holidays/0/country"}


def test_calendar_sizes_bounded() -> None:
    day = dt.date(2000, 1, 1)
    listed = [(day + dt.timedelta(days=number)).isoformat() for number in range(MAX_DATES + 1)]
    assert len(make_dates(days=listed[:-1]).to_json()["days"]) == MAX_DATES
    [problem] = list_problems({"kind": "dates", "days": listed})
    assert problem.message == f"days may have {MAX_DATES} entries, not {MAX_DATES + 1}"
    assert len(list_problems({"kind": "dates", "days": ["x"] * MAX_DATES})) == 50


def test_calendar_without_holidays_does_not_import_holidays() -> None:
    code = (
        "import sys; from jobworker.domain.calendars.calendar_parser import parse;"
        "parse({'kind': 'business', 'closed': ['2026-12-24']}); assert 'holidays' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
