"""Calendars as JSON: what somebody writes becomes a calendar, or errors that say where and what would be right."""

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jobworker.domain import public_holidays
from jobworker.domain.calendars import WEEKDAYS, Business, Calendar, Dates, Holidays, Hours, Window
from jobworker.domain.described import Described
from jobworker.domain.errors import FieldError, InvalidInput, pointer

#: A calendar is read as a whole; what has more dates (or windows) than that is a table of its own.
MOST_DATES = 5000

LONGEST_NAME = 200
_LONGEST_TEXT = 1000
_MOST_COUNTRIES = 20
_MOST_HOURS = 12

#: Who has made so many mistakes has made one many times.
_MOST_PROBLEMS = 50

#: Dates outside of these years are typing errors.
_YEARS = range(1970, 2400)

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?\Z", re.ASCII)
_HOURS = re.compile(r"(?P<begin>\d{2}:\d{2})-(?P<end>\d{2}:\d{2})\Z", re.ASCII)


def parse(given: object, where: str = "") -> Calendar:
    """The calendar that a JSON object describes; raises `InvalidInput` with every problem."""
    read = Described(given, where)
    read.require("kind")
    kind = read.get_choice("kind", list(_KINDS), "")
    if not kind:
        raise InvalidInput("; ".join(problem.message for problem in read.problems), read.problems)
    calendar = _KINDS[kind](read)
    read.finish()
    return calendar


def _business(read: Described) -> Calendar:
    closed, opened = _days(read, "closed", "closed"), _listed(read, "opened")
    for day in sorted(closed.keys() & opened):
        read.add_problem("opened", "not_allowed", f"{day} cannot be both closed and opened")
    weekend, hours = _weekend(read), _business_hours(read)
    given = {day for day, parts in (hours or {}).items() if parts}
    for weekday in sorted(given & weekend - {day.weekday() for day in opened}):
        called = WEEKDAYS[weekday]
        message = f"{called} is in weekend, and nobody works then: give a weekend without it, or leave out its hours"
        _refuse(read, ("hours", called), "not_allowed", message)
    working = {day for day in range(7) if day not in weekend and (hours is None or hours.get(day))}
    if not working and not opened and not read.problems:
        message = "nobody would ever work: leave a day of the week out of weekend and give it hours, or open some days"
        read.add_problem("weekend", "empty", message)
    return Business(weekend, _holidays(read), closed, frozenset(opened), hours, _description(read))


def _dates(read: Described) -> Calendar:
    calendar = Dates(_days(read, "days", "listed"), _windows(read), _holidays(read), _description(read))
    if not read.problems and not (calendar.days or calendar.windows or calendar.holidays):
        read.add_problem("days", "empty", "the calendar is empty: give days, windows or holidays")
    return calendar


_KINDS: Mapping[str, Callable[[Described], Calendar]] = {Business.kind: _business, Dates.kind: _dates}


def _description(read: Described) -> str:
    return (read.get_text("description", _LONGEST_TEXT) or "") if read.get_value("description") else ""


def _weekend(read: Described) -> frozenset[int]:
    if read.get_value("weekend") is None:
        return Business().weekend
    days = read.get_texts("weekend", 9, len(WEEKDAYS))
    for at, day in enumerate(days):
        if day not in WEEKDAYS:
            read.add_problem(f"weekend/{at}", "not_allowed", _no_weekday(day))
    return frozenset(WEEKDAYS.index(day) for day in days if day in WEEKDAYS)


def _business_hours(read: Described) -> dict[int, tuple[Hours, ...]] | None:
    given = read.get_value("hours")
    if given is None:
        return None
    if not isinstance(given, Mapping):
        read.add_problem("hours", "wrong_type", 'hours must be an object such as {"monday": ["09:00-17:00"]}')
        return None
    found = {}
    for day, parts in given.items():
        if day in WEEKDAYS:
            found[WEEKDAYS.index(day)] = tuple(_hours_of(read, day, parts))
        else:
            _refuse(read, ("hours", day), "not_allowed", _no_weekday(day))
    return found


def _hours_of(read: Described, day: str, given: Any) -> Iterator[Hours]:
    place: tuple[str | int, ...] = ("hours", day)
    if not isinstance(given, list) or len(given) > _MOST_HOURS:
        message = f'{day} must be a list of at most {_MOST_HOURS} spans such as "09:00-17:00"'
        _refuse(read, place, "wrong_type", message)
        return
    latest = "00:00"
    for at, each in enumerate(given):
        found = _HOURS.match(each) if isinstance(each, str) else None
        if found is None or not (_is_clock(found["begin"]) and (_is_clock(found["end"]) or found["end"] == "24:00")):
            _refuse(read, (*place, at), "wrong_type", f'{day} must have spans such as "09:00-17:00"')
        elif found["end"] <= found["begin"]:
            message = f"{each} ends before it begins; what goes on after midnight belongs to the next day, too"
            _refuse(read, (*place, at), "not_allowed", message)
        elif found["begin"] < latest:
            _refuse(read, (*place, at), "not_allowed", f"{each} begins before the span before it ends")
        else:
            latest = found["end"]
            yield dt.time.fromisoformat(found["begin"]), None if latest == "24:00" else dt.time.fromisoformat(latest)


def _holidays(read: Described) -> tuple[Holidays, ...]:
    given = read.get_value("holidays")
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) > _MOST_COUNTRIES:
        message = f'holidays must be a list of at most {_MOST_COUNTRIES} such as {{"country": "DE"}}'
        read.add_problem("holidays", "wrong_type", message)
        return ()
    found = []
    for at, each in enumerate(given):
        inner = Described(each, f"{read.where}/holidays/{at}")
        inner.require("country")
        country, subdivision = inner.get_text("country", 100), inner.get_text("subdivision", 100)
        if country:
            _check_place(inner, country, subdivision)
            found.append(Holidays(country, subdivision))
        _take(read, inner)
    return tuple(dict.fromkeys(found))


def _check_place(read: Described, country: str, subdivision: str | None) -> None:
    problem = public_holidays.country_problem(country)
    if problem is not None:
        read.add_problem("country", "unknown_country", problem)
        return
    problem = public_holidays.subdivision_problem(country, subdivision) if subdivision else None
    if problem is not None:
        read.add_problem("subdivision", "unknown_subdivision", problem)


def _days(read: Described, name: str, unnamed: str) -> dict[dt.date, str]:
    """Dates with their names: an object, or a list of dates that have none."""
    given = read.get_value(name)
    if isinstance(given, list):
        return dict.fromkeys(sorted(_listed(read, name)), unnamed)
    if given is None or not _fits(read, name, given, Mapping):
        return {}
    found = {}
    for text, called in given.items():
        day = _date(read, (name, text), text)
        if not isinstance(called, str) or not (0 < len(called) <= LONGEST_NAME and called.isprintable()):
            message = f"the name of {text} must be a text of 1 to {LONGEST_NAME} printable characters"
            _refuse(read, (name, text), "wrong_type", message)
        elif day is not None:
            found[day] = called
    return dict(sorted(found.items()))


def _listed(read: Described, name: str) -> set[dt.date]:
    given = read.get_value(name)
    if given is None or not _fits(read, name, given, list):
        return set()
    found = (_date(read, (name, at), each) for at, each in enumerate(given))
    return {day for day in found if day is not None}


def _windows(read: Described) -> tuple[Window, ...]:
    given = read.get_value("windows")
    if given is None or not _fits(read, "windows", given, list):
        return ()
    found = []
    for at, each in enumerate(given):
        inner = Described(each, f"{read.where}/windows/{at}")
        inner.require("from", "to")
        begin, end = _time(inner, "from"), _time(inner, "to")
        name = inner.get_text("name", LONGEST_NAME, "listed")
        if begin and end and end <= begin:
            inner.add_problem("to", "not_allowed", f"to must be later than from, {begin.isoformat(timespec='minutes')}")
        elif begin and end and name:
            found.append(Window(begin, end, name))
        _take(read, inner)
    return tuple(sorted(found, key=lambda window: (window.begin, window.end, window.name)))


def _fits(read: Described, name: str, given: Any, kind: Any) -> bool:
    if not isinstance(given, kind):
        form = "a list of dates" if name == "opened" else "a list of objects with from and to"
        if kind is Mapping:
            form = 'an object such as {"2026-12-24": "Christmas Eve"}, or a list of dates'
        read.add_problem(name, "wrong_type", f"{name} must be {form}")
    elif len(given) > MOST_DATES:
        read.add_problem(name, "not_allowed", f"{name} may have {MOST_DATES} entries, not {len(given)}")
    else:
        return True
    return False


def _date(read: Described, place: Sequence[str | int], text: object) -> dt.date | None:
    if not isinstance(text, str) or not _DATE.match(text):
        _refuse(read, place, "wrong_type", f"{str(text)[:40]!r} is not a date such as 2026-12-24")
        return None
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        _refuse(read, place, "not_allowed", f"there is no {text}")
        return None
    if day.year not in _YEARS:
        _refuse(read, place, "not_allowed", f"{text} is not in {_YEARS.start} to {_YEARS.stop - 1}")
        return None
    return day


def _time(read: Described, name: str) -> dt.datetime | None:
    given = read.get_value(name)
    if given is None:
        return None
    if not isinstance(given, str) or not _TIME.match(given):
        message = f"{name} must be a time on the wall clock such as 2026-12-31T22:00, without an offset"
        read.add_problem(name, "wrong_type", message)
        return None
    try:
        time = dt.datetime.fromisoformat(given)
    except ValueError:
        read.add_problem(name, "not_allowed", f"there is no {given}")
        return None
    if time.year not in _YEARS:
        read.add_problem(name, "not_allowed", f"{given} is not in {_YEARS.start} to {_YEARS.stop - 1}")
        return None
    return time


def _is_clock(text: str) -> bool:
    return text[:2] < "24" and text[3:] < "60"


def _no_weekday(day: object) -> str:
    return f"{day!r} is no day of the week; they are {', '.join(WEEKDAYS)}"


def _refuse(read: Described, place: Sequence[str | int], code: str, message: str) -> None:
    if len(read.problems) < _MOST_PROBLEMS:
        read.problems.append(FieldError(read.where + pointer(*place), code, message))


def _take(read: Described, inner: Described) -> None:
    try:
        inner.finish()
    except InvalidInput as error:
        read.problems.extend(error.errors[: max(_MOST_PROBLEMS - len(read.problems), 0)])
