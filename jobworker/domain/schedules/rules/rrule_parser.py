"""Strict parser of the recurrence rules of RFC 5545: `FREQ=WEEKLY;BYDAY=MO,WE`."""

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

#: Names of the days in an RRULE, in the order of the week.
WEEKDAY_CODES = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")

#: Maximum COUNT, because such a rule is evaluated from its start; `max_runs` of a schedule may be higher.
MAX_COUNT = 1000

#: Maximum interval: every 366th day, week, month.
_MAX_INTERVAL = 366

#: Maximum number of times a day with BYSETPOS, which evaluates all the times of a period.
_MAX_TIMES_PER_DAY = 24

_UNTIL = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d))?\Z", re.ASCII)
_DAY = re.compile(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)\Z", re.ASCII)


class RRuleFrequency(StrEnum):
    """The length of a period."""

    HOURLY = "HOURLY"
    DAILY = "DAILY"
    WEEKLY = "WEEKLY"
    MONTHLY = "MONTHLY"
    YEARLY = "YEARLY"


@dataclass(frozen=True, slots=True)
class RRuleParts:
    """A parsed rule. Numbers below zero count from the end; an empty tuple is an absent part.

    `days` has pairs (n, day of the week, 0 is Monday); n may be None.
    """

    frequency: RRuleFrequency
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


def parse(expression: str) -> RRuleParts:
    """Return the parts of a rule. Raises `ValueError` with the problem and the accepted form."""
    texts: dict[str, str] = {}
    for part in expression.strip().upper().removeprefix("RRULE:").rstrip(";").split(";"):
        name, equals, text = part.partition("=")
        if not equals or name not in _PART_PARSERS:
            raise ValueError(
                f"{part!r} is not a part of a rule; the parts are {', '.join(f'{key}=' for key in _PART_PARSERS)}"
            )
        if name in texts:
            raise ValueError(f"{name} is present more than once")
        texts[name] = text
    if "FREQ" not in texts:
        raise ValueError("FREQ is missing; an example is FREQ=WEEKLY;BYDAY=MO,WE")
    parts = RRuleParts(**{_PART_PARSERS[name][0]: _PART_PARSERS[name][1](name, text) for name, text in texts.items()})
    _check(parts)
    return parts


def _check(parts: RRuleParts) -> None:
    """Raise `ValueError` for combinations that RFC 5545 forbids because they have no clear meaning."""
    frequency, monthly = parts.frequency, (RRuleFrequency.MONTHLY, RRuleFrequency.YEARLY)
    refused = {
        "COUNT and UNTIL exclude each other": parts.count and parts.until,
        "BYWEEKNO goes with FREQ=YEARLY only": parts.weeks and frequency is not RRuleFrequency.YEARLY,
        "BYYEARDAY goes with FREQ=YEARLY or HOURLY only": parts.year_days
        and frequency not in (RRuleFrequency.YEARLY, RRuleFrequency.HOURLY),
        "BYMONTHDAY does not go with FREQ=WEEKLY": parts.month_days and frequency is RRuleFrequency.WEEKLY,
        "a number in BYDAY, such as 2MO, goes with FREQ=MONTHLY or YEARLY only, and not with BYWEEKNO": any(
            number for number, _ in parts.days
        )
        and (frequency not in monthly or parts.weeks),
        "BYSETPOS goes with FREQ=WEEKLY, MONTHLY or YEARLY only, and with another BY… part": parts.positions
        and (frequency not in (RRuleFrequency.WEEKLY, *monthly) or not _has_other_parts(parts)),
        f"BYSETPOS goes with at most {_MAX_TIMES_PER_DAY} times a day": parts.positions
        and max(1, len(parts.hours)) * max(1, len(parts.minutes)) * max(1, len(parts.seconds)) > _MAX_TIMES_PER_DAY,
    }
    for message, wrong in refused.items():
        if wrong:
            raise ValueError(message)


def _has_other_parts(parts: RRuleParts) -> bool:
    return any((parts.months, parts.weeks, parts.year_days, parts.month_days, parts.days, parts.hours, parts.minutes))


def _parse_frequency(_: str, text: str) -> RRuleFrequency:
    if text in ("SECONDLY", "MINUTELY"):
        raise ValueError(f"FREQ={text} is too often for a recurrence rule; use an interval or a cron expression")
    try:
        return RRuleFrequency(text)
    except ValueError:
        raise ValueError(f"FREQ must be one of {', '.join(RRuleFrequency)}") from None


def _parse_until(name: str, text: str) -> dt.datetime:
    match = _UNTIL.match(text)
    if match is None and text.endswith("Z") and _UNTIL.match(text[:-1]):
        message = f"{name}={text} is in UTC, and a rule has no zone; write the time on the schedule's own clock"
        raise ValueError(f"{message}, without the Z")
    if match is None:
        message = (
            f"{name} must be a time on the schedule's own clock such as 20261231T180000, or a date such as 20261231"
        )
        raise ValueError(message)
    year, month, day, hour, minute, second = (int(number or 0) for number in match.groups())
    try:
        date, time = dt.date(year, month, day), dt.time(hour, minute, second)
    except ValueError as error:
        raise ValueError(f"{name}={text} does not exist: {error}") from None
    # A date alone includes the whole day.
    return dt.datetime.combine(date, time if match[4] else dt.time.max)


def _parse_day(name: str, text: str) -> tuple[int | None, int]:
    match = _DAY.match(text)
    if match is None or (match[1] and not 0 < abs(int(match[1])) <= 53):
        raise ValueError(f"{name} must list days such as MO, or the second Monday as 2MO, the last one as -1MO")
    return (int(match[1]) if match[1] else None), WEEKDAY_CODES.index(match[2])


def _parse_week_start(name: str, text: str) -> int:
    if text not in WEEKDAY_CODES:
        raise ValueError(f"{name} must be one of {', '.join(WEEKDAY_CODES)}")
    return WEEKDAY_CODES.index(text)


def _build_number_parser(lowest: int, highest: int) -> Callable[[str, str], int]:
    """Return a parser of one number; where it may be negative, it may not be zero."""

    def number(name: str, text: str) -> int:
        value = int(text) if re.fullmatch(r"[+-]?\d{1,5}", text, re.ASCII) else None
        if value is None or not lowest <= value <= highest or (lowest < 0 and value == 0):
            between = f"{lowest} to {highest}" + (", and not 0" if lowest < 0 else "")
            raise ValueError(f"{name} must be {between}; {text!r} is not")
        return value

    return number


def _build_list_parser(parse_item: Callable[[str, str], Any]) -> Callable[[str, str], tuple[Any, ...]]:
    return lambda name, text: tuple(dict.fromkeys(parse_item(name, item) for item in text.split(",")))


#: Each part: its field of `RRuleParts`, and its parser.
_PART_PARSERS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {
    "FREQ": ("frequency", _parse_frequency),
    "INTERVAL": ("interval", _build_number_parser(1, _MAX_INTERVAL)),
    "COUNT": ("count", _build_number_parser(1, MAX_COUNT)),
    "UNTIL": ("until", _parse_until),
    "WKST": ("week_start", _parse_week_start),
    "BYMONTH": ("months", _build_list_parser(_build_number_parser(1, 12))),
    "BYWEEKNO": ("weeks", _build_list_parser(_build_number_parser(-53, 53))),
    "BYYEARDAY": ("year_days", _build_list_parser(_build_number_parser(-366, 366))),
    "BYMONTHDAY": ("month_days", _build_list_parser(_build_number_parser(-31, 31))),
    "BYDAY": ("days", _build_list_parser(_parse_day)),
    "BYHOUR": ("hours", _build_list_parser(_build_number_parser(0, 23))),
    "BYMINUTE": ("minutes", _build_list_parser(_build_number_parser(0, 59))),
    "BYSECOND": ("seconds", _build_list_parser(_build_number_parser(0, 59))),
    "BYSETPOS": ("positions", _build_list_parser(_build_number_parser(-366, 366))),
}
