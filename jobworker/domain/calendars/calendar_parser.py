"""Parser of calendars in JSON: returns a calendar, or errors with their places and the accepted values."""

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jobworker.domain.calendars import public_holidays
from jobworker.domain.calendars.calendars import (
    WEEKDAYS,
    BusinessCalendar,
    Calendar,
    CalendarWindow,
    CountryHolidays,
    DateCalendar,
    TimeRange,
)
from jobworker.domain.errors import FieldError, InvalidInput, format_pointer
from jobworker.domain.json.json_reader import JsonObjectReader

#: Maximum number of dates, and of windows, of a calendar, which is always read as a whole.
MAX_DATES = 5000

MAX_NAME_LENGTH = 200
_MAX_TEXT_LENGTH = 1000
_MAX_COUNTRIES = 20
_MAX_HOURS_PER_DAY = 12

#: Maximum number of problems reported; more are usually repetitions of one mistake.
_MAX_PROBLEMS = 50

#: Allowed years of dates; other years are typing errors.
_YEARS = range(1970, 2400)

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?\Z", re.ASCII)
_HOURS = re.compile(r"(?P<begin>\d{2}:\d{2})-(?P<end>\d{2}:\d{2})\Z", re.ASCII)


def parse(value: object, where: str = "") -> Calendar:
    """Return the calendar in a JSON object. Raises `InvalidInput` with every problem."""
    read = JsonObjectReader(value, where)
    read.require("kind")
    kind = read.get_choice("kind", list(_PARSERS), "")
    if not kind:
        raise InvalidInput("; ".join(problem.message for problem in read.problems), read.problems)
    calendar = _PARSERS[kind](read)
    read.finish()
    return calendar


def _parse_business(reader: JsonObjectReader) -> Calendar:
    closed, opened = _parse_named_dates(reader, "closed", "closed"), _parse_date_list(reader, "opened")
    for day in sorted(closed.keys() & opened):
        reader.add_problem("opened", "not_allowed", f"{day} cannot be both closed and opened")
    weekend, hours = _parse_weekend(reader), _parse_business_hours(reader)
    weekdays_with_hours = {day for day, parts in (hours or {}).items() if parts}
    for weekday in sorted(weekdays_with_hours & weekend - {day.weekday() for day in opened}):
        weekday_name = WEEKDAYS[weekday]
        message = (
            f"{weekday_name} is in weekend, so its hours are never used: take it out of weekend, or leave out its hours"
        )
        _add_problem(reader, ("hours", weekday_name), "not_allowed", message)
    working = {day for day in range(7) if day not in weekend and (hours is None or hours.get(day))}
    if not working and not opened and not reader.problems:
        message = (
            "the calendar has no business day: "
            "take a day of the week out of weekend and give it hours, or list days in opened"
        )
        reader.add_problem("weekend", "empty", message)
    return BusinessCalendar(
        weekend, _parse_holidays(reader), closed, frozenset(opened), hours, _parse_description(reader)
    )


def _parse_dates(reader: JsonObjectReader) -> Calendar:
    calendar = DateCalendar(
        _parse_named_dates(reader, "days", "listed"),
        _parse_windows(reader),
        _parse_holidays(reader),
        _parse_description(reader),
    )
    if not reader.problems and not (calendar.days or calendar.windows or calendar.holidays):
        reader.add_problem("days", "empty", "the calendar is empty: give days, windows or holidays")
    return calendar


_PARSERS: Mapping[str, Callable[[JsonObjectReader], Calendar]] = {
    BusinessCalendar.kind: _parse_business,
    DateCalendar.kind: _parse_dates,
}


def _parse_description(reader: JsonObjectReader) -> str:
    return (reader.get_text("description", _MAX_TEXT_LENGTH) or "") if reader.get_value("description") else ""


def _parse_weekend(reader: JsonObjectReader) -> frozenset[int]:
    if reader.get_value("weekend") is None:
        return BusinessCalendar().weekend
    days = reader.get_texts("weekend", 9, len(WEEKDAYS))
    for at, day in enumerate(days):
        if day not in WEEKDAYS:
            reader.add_problem(f"weekend/{at}", "not_allowed", _describe_unknown_weekday(day))
    return frozenset(WEEKDAYS.index(day) for day in days if day in WEEKDAYS)


def _parse_business_hours(reader: JsonObjectReader) -> dict[int, tuple[TimeRange, ...]] | None:
    hours = reader.get_value("hours")
    if hours is None:
        return None
    if not isinstance(hours, Mapping):
        reader.add_problem("hours", "wrong_type", 'hours must be an object such as {"monday": ["09:00-17:00"]}')
        return None
    ranges_by_weekday = {}
    for day, parts in hours.items():
        if day in WEEKDAYS:
            ranges_by_weekday[WEEKDAYS.index(day)] = tuple(_parse_hours_of_day(reader, day, parts))
        else:
            _add_problem(reader, ("hours", day), "not_allowed", _describe_unknown_weekday(day))
    return ranges_by_weekday


def _parse_hours_of_day(reader: JsonObjectReader, day: str, value: Any) -> Iterator[TimeRange]:
    place: tuple[str | int, ...] = ("hours", day)
    if not isinstance(value, list) or len(value) > _MAX_HOURS_PER_DAY:
        message = f'{day} must be a list of at most {_MAX_HOURS_PER_DAY} spans such as "09:00-17:00"'
        _add_problem(reader, place, "wrong_type", message)
        return
    latest = "00:00"
    for at, span in enumerate(value):
        match = _HOURS.match(span) if isinstance(span, str) else None
        if match is None or not (
            _is_time_of_day(match["begin"]) and (_is_time_of_day(match["end"]) or match["end"] == "24:00")
        ):
            _add_problem(reader, (*place, at), "wrong_type", f'{day} must have spans such as "09:00-17:00"')
        elif match["end"] <= match["begin"]:
            message = f"{span} ends before it begins; split it at midnight, and list the second part on the next day"
            _add_problem(reader, (*place, at), "not_allowed", message)
        elif match["begin"] < latest:
            _add_problem(reader, (*place, at), "not_allowed", f"{span} begins before the span before it ends")
        else:
            latest = match["end"]
            yield dt.time.fromisoformat(match["begin"]), None if latest == "24:00" else dt.time.fromisoformat(latest)


def _parse_holidays(reader: JsonObjectReader) -> tuple[CountryHolidays, ...]:
    holidays = reader.get_value("holidays")
    if holidays is None:
        return ()
    if not isinstance(holidays, list) or len(holidays) > _MAX_COUNTRIES:
        message = f'holidays must be a list of at most {_MAX_COUNTRIES} such as {{"country": "DE"}}'
        reader.add_problem("holidays", "wrong_type", message)
        return ()
    country_holidays = []
    for at, holiday in enumerate(holidays):
        inner = JsonObjectReader(holiday, f"{reader.where}/holidays/{at}")
        inner.require("country")
        country, subdivision = inner.get_text("country", 100), inner.get_text("subdivision", 100)
        if country:
            _check_place(inner, country, subdivision)
            country_holidays.append(CountryHolidays(country, subdivision))
        _merge_problems(reader, inner)
    return tuple(dict.fromkeys(country_holidays))


def _check_place(reader: JsonObjectReader, country: str, subdivision: str | None) -> None:
    problem = public_holidays.describe_country_problem(country)
    if problem is not None:
        reader.add_problem("country", "unknown_country", problem)
        return
    problem = public_holidays.describe_subdivision_problem(country, subdivision) if subdivision else None
    if problem is not None:
        reader.add_problem("subdivision", "unknown_subdivision", problem)


def _parse_named_dates(reader: JsonObjectReader, name: str, default_name: str) -> dict[dt.date, str]:
    """Return dates with their names: from an object, or from a list of dates without names."""
    dates = reader.get_value(name)
    if isinstance(dates, list):
        return dict.fromkeys(sorted(_parse_date_list(reader, name)), default_name)
    if dates is None or not _check_collection(reader, name, dates, Mapping):
        return {}
    names_by_day = {}
    for text, day_name in dates.items():
        day = _parse_date(reader, (name, text), text)
        if not isinstance(day_name, str) or not (0 < len(day_name) <= MAX_NAME_LENGTH and day_name.isprintable()):
            message = f"the name of {text} must be a text of 1 to {MAX_NAME_LENGTH} printable characters"
            _add_problem(reader, (name, text), "wrong_type", message)
        elif day is not None:
            names_by_day[day] = day_name
    return dict(sorted(names_by_day.items()))


def _parse_date_list(reader: JsonObjectReader, name: str) -> set[dt.date]:
    dates = reader.get_value(name)
    if dates is None or not _check_collection(reader, name, dates, list):
        return set()
    days = (_parse_date(reader, (name, at), date) for at, date in enumerate(dates))
    return {day for day in days if day is not None}


def _parse_windows(reader: JsonObjectReader) -> tuple[CalendarWindow, ...]:
    window_objects = reader.get_value("windows")
    if window_objects is None or not _check_collection(reader, "windows", window_objects, list):
        return ()
    windows = []
    for at, window_object in enumerate(window_objects):
        inner = JsonObjectReader(window_object, f"{reader.where}/windows/{at}")
        inner.require("from", "to")
        begin, end = _parse_local_time(inner, "from"), _parse_local_time(inner, "to")
        name = inner.get_text("name", MAX_NAME_LENGTH, "listed")
        if begin and end and end <= begin:
            inner.add_problem("to", "not_allowed", f"to must be later than from, {begin.isoformat(timespec='minutes')}")
        elif begin and end and name:
            windows.append(CalendarWindow(begin, end, name))
        _merge_problems(reader, inner)
    return tuple(sorted(windows, key=lambda window: (window.begin, window.end, window.name)))


def _check_collection(reader: JsonObjectReader, name: str, value: Any, kind: Any) -> bool:
    if not isinstance(value, kind):
        form = "a list of dates" if name == "opened" else "a list of objects with from and to"
        if kind is Mapping:
            form = 'an object such as {"2026-12-24": "Christmas Eve"}, or a list of dates'
        reader.add_problem(name, "wrong_type", f"{name} must be {form}")
    elif len(value) > MAX_DATES:
        reader.add_problem(name, "not_allowed", f"{name} may have {MAX_DATES} entries, not {len(value)}")
    else:
        return True
    return False


def _parse_date(reader: JsonObjectReader, place: Sequence[str | int], text: object) -> dt.date | None:
    if not isinstance(text, str) or not _DATE.match(text):
        _add_problem(reader, place, "wrong_type", f"{str(text)[:40]!r} is not a date such as 2026-12-24")
        return None
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        _add_problem(reader, place, "not_allowed", f"there is no {text}")
        return None
    if day.year not in _YEARS:
        _add_problem(reader, place, "not_allowed", f"{text} is not in {_YEARS.start} to {_YEARS.stop - 1}")
        return None
    return day


def _parse_local_time(reader: JsonObjectReader, name: str) -> dt.datetime | None:
    value = reader.get_value(name)
    if value is None:
        return None
    if not isinstance(value, str) or not _TIME.match(value):
        message = f"{name} must be a time on the wall clock such as 2026-12-31T22:00, without an offset"
        reader.add_problem(name, "wrong_type", message)
        return None
    try:
        time = dt.datetime.fromisoformat(value)
    except ValueError:
        reader.add_problem(name, "not_allowed", f"there is no {value}")
        return None
    if time.year not in _YEARS:
        reader.add_problem(name, "not_allowed", f"{value} is not in {_YEARS.start} to {_YEARS.stop - 1}")
        return None
    return time


def _is_time_of_day(text: str) -> bool:
    return text[:2] < "24" and text[3:] < "60"


def _describe_unknown_weekday(day: object) -> str:
    return f"{day!r} is not a day of the week; the days are {', '.join(WEEKDAYS)}"


def _add_problem(reader: JsonObjectReader, place: Sequence[str | int], code: str, message: str) -> None:
    if len(reader.problems) < _MAX_PROBLEMS:
        reader.problems.append(FieldError(reader.where + format_pointer(*place), code, message))


def _merge_problems(reader: JsonObjectReader, inner: JsonObjectReader) -> None:
    try:
        inner.finish()
    except InvalidInput as error:
        reader.problems.extend(error.errors[: max(_MAX_PROBLEMS - len(reader.problems), 0)])
