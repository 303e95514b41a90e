"""Reading what RFC 5545 calls a recurrence rule: `FREQ=WEEKLY;BYDAY=MO,WE`, strictly."""

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

#: What RRULE calls days, in the order of the week.
DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")

#: A rule with COUNT is gone through from its start; `max_runs` of a schedule counts farther.
MOST_COUNTED = 1000

#: A period is skipped so often at most: every 366th day, week, month.
_LONGEST_INTERVAL = 366

#: BYSETPOS looks at all the times of a period.
_MOST_PLACED = 24

_UNTIL = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d))?\Z", re.ASCII)
_DAY = re.compile(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)\Z", re.ASCII)


class Frequency(StrEnum):
    """The length of a period."""

    HOURLY = "HOURLY"
    DAILY = "DAILY"
    WEEKLY = "WEEKLY"
    MONTHLY = "MONTHLY"
    YEARLY = "YEARLY"


@dataclass(frozen=True, slots=True)
class Parts:
    """A rule as it was read. Numbers below zero count from the end; an empty tuple is a part that is not there.

    `days` holds (n, day of the week, 0 is Monday); n is None where no number was given.
    """

    frequency: Frequency
    interval: int = 1
    count: int | None = None
    until: dt.datetime | None = None
    week_start: int = 0
    months: tuple[int, ...] = ()
    weeks: tuple[int, ...] = ()
    year_days: tuple[int, ...] = ()
    month_days: tuple[int, ...] = ()
    days: tuple[tuple[int | None, int], ...] = ()
    hours: tuple[int, ...] = ()
    minutes: tuple[int, ...] = ()
    seconds: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()


def read(expression: str) -> Parts:
    """The parts of a rule; raises `ValueError` that says what is wrong and what would be right."""
    given: dict[str, str] = {}
    for each in expression.strip().upper().removeprefix("RRULE:").rstrip(";").split(";"):
        name, equals, text = each.partition("=")
        if not equals or name not in _PARTS:
            raise ValueError(f"{each!r} is no part of a rule; they are {', '.join(f'{known}=' for known in _PARTS)}")
        if name in given:
            raise ValueError(f"{name} is there more than once")
        given[name] = text
    if "FREQ" not in given:
        raise ValueError("FREQ is missing; an example is FREQ=WEEKLY;BYDAY=MO,WE")
    parts = Parts(**{_PARTS[name][0]: _PARTS[name][1](name, text) for name, text in given.items()})
    _check(parts)
    return parts


def _check(parts: Parts) -> None:
    """What RFC 5545 rules out, because nobody could say what it means."""
    frequency, monthly = parts.frequency, (Frequency.MONTHLY, Frequency.YEARLY)
    refused = {
        "COUNT and UNTIL exclude each other": parts.count and parts.until,
        "BYWEEKNO goes with FREQ=YEARLY only": parts.weeks and frequency is not Frequency.YEARLY,
        "BYYEARDAY goes with FREQ=YEARLY or HOURLY only": parts.year_days
        and frequency not in (Frequency.YEARLY, Frequency.HOURLY),
        "BYMONTHDAY does not go with FREQ=WEEKLY": parts.month_days and frequency is Frequency.WEEKLY,
        "a number in BYDAY, such as 2MO, goes with FREQ=MONTHLY or YEARLY only, and not with BYWEEKNO": any(
            number for number, _ in parts.days
        )
        and (frequency not in monthly or parts.weeks),
        "BYSETPOS goes with FREQ=WEEKLY, MONTHLY or YEARLY only, and with another BY… part": parts.positions
        and (frequency not in (Frequency.WEEKLY, *monthly) or not _chooses(parts)),
        f"BYSETPOS goes with at most {_MOST_PLACED} times a day": parts.positions
        and max(1, len(parts.hours)) * max(1, len(parts.minutes)) * max(1, len(parts.seconds)) > _MOST_PLACED,
    }
    for message, wrong in refused.items():
        if wrong:
            raise ValueError(message)


def _chooses(parts: Parts) -> bool:
    return any((parts.months, parts.weeks, parts.year_days, parts.month_days, parts.days, parts.hours, parts.minutes))


def _frequency(_: str, text: str) -> Frequency:
    if text in ("SECONDLY", "MINUTELY"):
        raise ValueError(f"FREQ={text} is too often for a recurrence rule; use an interval or a cron expression")
    try:
        return Frequency(text)
    except ValueError:
        raise ValueError(f"FREQ must be one of {', '.join(Frequency)}") from None


def _until(name: str, text: str) -> dt.datetime:
    found = _UNTIL.match(text)
    if found is None and text.endswith("Z") and _UNTIL.match(text[:-1]):
        message = f"{name}={text} is in UTC, and a rule knows no zone; write the same on the schedule's own clock"
        raise ValueError(f"{message}, without the Z")
    if found is None:
        message = (
            f"{name} must be a time on the schedule's own clock such as 20261231T180000, or a date such as 20261231"
        )
        raise ValueError(message)
    year, month, day, hour, minute, second = (int(number or 0) for number in found.groups())
    try:
        date, time = dt.date(year, month, day), dt.time(hour, minute, second)
    except ValueError as error:
        raise ValueError(f"{name}={text} does not exist: {error}") from None
    # A date alone means the whole day.
    return dt.datetime.combine(date, time if found[4] else dt.time.max)


def _day(name: str, text: str) -> tuple[int | None, int]:
    found = _DAY.match(text)
    if found is None or (found[1] and not 0 < abs(int(found[1])) <= 53):
        raise ValueError(f"{name} must list days such as MO, or the second Monday as 2MO, the last one as -1MO")
    return (int(found[1]) if found[1] else None), DAYS.index(found[2])


def _week_start(name: str, text: str) -> int:
    if text not in DAYS:
        raise ValueError(f"{name} must be one of {', '.join(DAYS)}")
    return DAYS.index(text)


def _number(lowest: int, highest: int) -> Callable[[str, str], int]:
    """One number; where it may be negative, it may not be zero."""

    def number(name: str, text: str) -> int:
        found = int(text) if re.fullmatch(r"[+-]?\d{1,5}", text, re.ASCII) else None
        if found is None or not lowest <= found <= highest or (lowest < 0 and found == 0):
            between = f"{lowest} to {highest}" + (", and not 0" if lowest < 0 else "")
            raise ValueError(f"{name} must be {between}; {text!r} is not")
        return found

    return number


def _list(one: Callable[[str, str], Any]) -> Callable[[str, str], tuple[Any, ...]]:
    return lambda name, text: tuple(dict.fromkeys(one(name, each) for each in text.split(",")))


#: Each part: its field of `Parts`, and how it is read.
_PARTS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {
    "FREQ": ("frequency", _frequency),
    "INTERVAL": ("interval", _number(1, _LONGEST_INTERVAL)),
    "COUNT": ("count", _number(1, MOST_COUNTED)),
    "UNTIL": ("until", _until),
    "WKST": ("week_start", _week_start),
    "BYMONTH": ("months", _list(_number(1, 12))),
    "BYWEEKNO": ("weeks", _list(_number(-53, 53))),
    "BYYEARDAY": ("year_days", _list(_number(-366, 366))),
    "BYMONTHDAY": ("month_days", _list(_number(-31, 31))),
    "BYDAY": ("days", _list(_day)),
    "BYHOUR": ("hours", _list(_number(0, 23))),
    "BYMINUTE": ("minutes", _list(_number(0, 59))),
    "BYSECOND": ("seconds", _list(_number(0, 59))),
    "BYSETPOS": ("positions", _list(_number(-366, 366))),
}
