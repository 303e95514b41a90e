"""One event of an iCalendar file: when it is, how it repeats, and which instances are others."""

import datetime as dt
import zoneinfo
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jobworker.domain.calendar_reading import LONGEST_NAME
from jobworker.domain.rules import rrule_reading
from jobworker.domain.rules.recurrence import RRule
from jobworker.domain.rules.rrule_reading import Frequency

#: Events begin in these years; others are typing errors, and would have to be followed for centuries.
_YEARS = range(1900, 2400)

#: Rules that are finer than a day make more windows than a calendar holds.
_FREQUENCIES = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")

#: Rules that are counted must be followed from the first occurrence on.
_MOST_COUNTED = 10_000

#: So many occurrences of a file are worked out; a calendar holds no more than a quarter of them.
MOST_OCCURRENCES = 20_000

#: Through so many days the rules and the long events of a file are followed.
MOST_DAYS = 500_000

#: What makes a yearly rule look at every day of the year, and not at some dates.
_LOOKS_AT_DAYS = ("BYDAY", "BYWEEKNO", "BYYEARDAY", "BYSETPOS")

_DAY = dt.timedelta(days=1)
_LONGEST = 3660 * _DAY
_NOTHING = dt.timedelta(0)

Moment = dt.date | dt.datetime


class Unreadable(ValueError):
    """An event cannot be read; the text names it and says why."""


class TooMuch(ValueError):
    """A file would take too long to read; the text says why."""


@dataclass(slots=True)
class Effort:
    """What has been done about one file so far. It is bounded: somebody waits for the answer, and others wait too."""

    occurrences: int = 0
    days: int = 0

    def spend(self, occurrences: int, days: int) -> None:
        """Raises `TooMuch` before more is done than can be."""
        self.occurrences += occurrences
        self.days += days
        if self.occurrences > MOST_OCCURRENCES:
            raise TooMuch(f"the file's events occur more than {MOST_OCCURRENCES} times")
        if self.days > MOST_DAYS:
            raise TooMuch(f"its events have to be followed through more than {MOST_DAYS} days in sum")


@dataclass(frozen=True, slots=True)
class Rule:
    """A recurrence rule, and until when it holds: a time on the event's own clock."""

    text: str
    until: dt.datetime | None = None

    def begins(
        self, start: dt.datetime, after: dt.datetime, before: dt.datetime, effort: Effort
    ) -> Iterator[dt.datetime]:
        """The occurrences from `after` to `before` of an event that starts at `start`."""
        last = min(self.until or before, before)
        if start > last or after > last:
            return
        rule = RRule(self.text, start)
        scale = 366 if rule.parts.frequency is Frequency.YEARLY and not self._looks_at_days() else 1
        seen = start if rule.parts.count is not None else max(start, after)
        for begin in rule.followed(after, last):
            effort.spend(1, (begin - seen).days // scale)
            seen = begin
            if begin >= after:
                yield begin
        effort.spend(0, (last - seen).days // scale)

    def _looks_at_days(self) -> bool:
        return any(part in self.text for part in _LOOKS_AT_DAYS)


@dataclass(frozen=True, slots=True)
class Event:
    """An event. Times are naive, on the event's own clock (`tz`; None: on whichever clock is looked at).

    `instance` is which occurrence of the event with the same `uid` it stands for.
    """

    uid: str | None
    name: str
    start: dt.datetime
    length: dt.timedelta
    all_day: bool
    tz: dt.tzinfo | None
    instance: dt.datetime | None
    sequence: int
    cancelled: bool
    rules: Sequence[Rule]
    more: Sequence[dt.datetime]
    fewer: frozenset[dt.datetime]
    days_off: frozenset[dt.date]

    @property
    def zone(self) -> str | None:
        """The name of the zone of its times; None if it needs none."""
        if self.tz is None or self.all_day:
            return None
        return str(getattr(self.tz, "key", self.tz))

    def occurrences(
        self, first: dt.date, end: dt.date, zone: dt.tzinfo | None, others: set[dt.datetime], effort: Effort
    ) -> Iterator[tuple[Moment, Moment]]:
        """Begin and end of what is on the days from `first` up to `end`: days, or times on the clock of `zone`."""
        lowest, highest = dt.datetime.combine(first, dt.time()), dt.datetime.combine(end, dt.time())
        # Clocks differ by little more than a day; what is too much is cut off below.
        after, before = lowest - self.length - 2 * _DAY, highest + 2 * _DAY
        begins = {self.start, *self.more}.union(
            *(rule.begins(self.start, after, before, effort) for rule in self.rules)
        )
        for begin in sorted(begins - self.fewer - others):
            if begin.date() in self.days_off:
                continue
            shown, until = self._shown(begin, zone), self._shown(begin + self.length, zone)
            shown, until = max(shown, lowest), min(until, highest)
            if shown < until:
                # A long event that repeats every day names the same days over and over.
                effort.spend(0, (until - shown).days)
                yield (shown.date(), until.date()) if self.all_day else (shown, until)

    def _shown(self, time: dt.datetime, zone: dt.tzinfo | None) -> dt.datetime:
        if self.tz is None or zone is None or self.all_day:
            return time
        return time.replace(tzinfo=self.tz).astimezone(zone).replace(tzinfo=None)


def event_of(component: Any) -> Event:
    """The event that a VEVENT of the library describes; raises `Unreadable`."""
    name = _text(component.get("SUMMARY"))
    uid = str(component["UID"])[:LONGEST_NAME] if "UID" in component else None
    try:
        return _event(component, uid, name)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        called = f"event {name!r}" + (f" (UID {uid})" if uid else "")
        raise Unreadable(f"{called}: {error}") from None


def _event(component: Any, uid: str | None, name: str) -> Event:
    if component.errors:
        raise ValueError("; ".join(f"{field or 'a line'}: {problem}" for field, problem in component.errors))
    start = _stated(component, "DTSTART")
    if start is None:
        raise ValueError("DTSTART is missing")
    tz = _clock(component["DTSTART"]) if isinstance(start, dt.datetime) else None
    midnight = _naive(start, tz).time() == dt.time()
    # Outlook writes days as times from midnight to midnight.
    all_day = not isinstance(start, dt.datetime) or (
        midnight and _says(component, "X-MICROSOFT-CDO-ALLDAYEVENT", "TRUE")
    )
    added, removed = _listed(component, "RDATE"), _listed(component, "EXDATE")
    instance = _stated(component, "RECURRENCE-ID")
    if "RECURRENCE-ID" in component and "RANGE" in component["RECURRENCE-ID"].params:
        raise ValueError("RANGE=THISANDFUTURE is not read: let the calendar program write the instances")
    return Event(
        uid=uid,
        name=name,
        start=_naive(start, tz),
        length=_length(component, start, tz, all_day),
        all_day=all_day,
        tz=tz,
        instance=None if instance is None else _naive(instance, tz),
        sequence=int(component.get("SEQUENCE", 0)),
        cancelled=_says(component, "STATUS", "CANCELLED"),
        rules=[_rule(each, tz, all_day) for each in _many(component, "RRULE")],
        more=[_naive(each, tz) for each in added],
        fewer=frozenset(_naive(each, tz) for each in removed),
        days_off=frozenset(_naive(each, tz).date() for each in removed if all_day or not isinstance(each, dt.datetime)),
    )


def _clock(given: Any) -> dt.tzinfo | None:
    """The zone of a time. What Windows calls a zone stands for a well-known one, even if the file describes it."""
    from icalendar.timezone.windows_to_olson import WINDOWS_TO_OLSON

    known = WINDOWS_TO_OLSON.get(str(given.params.get("TZID", "")))
    tz: dt.tzinfo | None = zoneinfo.ZoneInfo(known) if known else given.dt.tzinfo
    return tz


def _length(component: Any, start: Moment, tz: dt.tzinfo | None, all_day: bool) -> dt.timedelta:
    end = _stated(component, "DTEND")
    if end is not None:
        if isinstance(end, dt.datetime) != isinstance(start, dt.datetime):
            raise ValueError("DTSTART and DTEND must both be days, or both times")
        length = _naive(end, tz) - _naive(start, tz)
        if length < _NOTHING:
            raise ValueError("DTEND is before DTSTART")
    elif "DURATION" in component:
        length = component["DURATION"].dt
        if abs(length) > _LONGEST:
            raise ValueError(f"DURATION must be at most {_LONGEST.days} days")
    else:
        length = _DAY if all_day else _NOTHING
    # Some programs say that a day begins and ends with itself.
    return max(length, _DAY) if all_day else length


def _rule(given: Any, tz: dt.tzinfo | None, all_day: bool) -> Rule:
    [frequency], [interval], [until], [count] = (
        given.get(name, [default])
        for name, default in (("FREQ", ""), ("INTERVAL", 1), ("UNTIL", None), ("COUNT", None))
    )
    if frequency not in _FREQUENCIES:
        raise ValueError(f"RRULE: FREQ must be one of {', '.join(_FREQUENCIES)}; what is more often is one window")
    if not 0 < interval <= _MOST_COUNTED or not 0 < (1 if count is None else count) <= _MOST_COUNTED:
        raise ValueError(f"RRULE: INTERVAL and COUNT must be 1 to {_MOST_COUNTED}")
    if any(len(given.get(name, [])) > 1 for name in ("BYHOUR", "BYMINUTE", "BYSECOND")):
        raise ValueError("RRULE: an event that repeats within a day is not read; give it as several events")
    text = ";".join(each for each in given.to_ical().decode().split(";") if not each.startswith("UNTIL="))
    rrule_reading.read(text)
    return Rule(text, _until(until, tz, all_day))


def _until(given: Moment | None, tz: dt.tzinfo | None, all_day: bool) -> dt.datetime | None:
    if given is None or given.year not in _YEARS:
        return None
    last = _naive(given, tz)
    whole = all_day or not isinstance(given, dt.datetime)
    return dt.datetime.combine(last.date(), dt.time.max) if whole else last


def _stated(component: Any, name: str) -> Moment | None:
    """The value of a property that is a day or a time; one whose zone nobody knows is refused."""
    if name not in component:
        return None
    given = component[name]
    if isinstance(given, list):
        raise ValueError(f"{name} is there more than once")
    return _known(given, name)


def _listed(component: Any, name: str) -> list[Moment]:
    return [_known(each, name) for line in _many(component, name) for each in line.dts]


def _known(given: Any, name: str) -> Moment:
    value = given.dt
    zone = given.params.get("TZID")
    if zone is not None and isinstance(value, dt.datetime) and value.tzinfo is None:
        raise ValueError(f"{name}: time zone {str(zone)[:100]!r} is not known, and the file does not describe it")
    if not isinstance(value, dt.date):
        raise TypeError(f"{name} must be a day or a time")
    if value.year not in _YEARS:
        raise ValueError(f"{name} is not in {_YEARS.start} to {_YEARS.stop - 1}")
    return value


def _many(component: Any, name: str) -> list[Any]:
    found = component.get(name, [])
    return found if isinstance(found, list) else [found]


def _naive(value: Moment, tz: dt.tzinfo | None) -> dt.datetime:
    """As the event's own clock shows it."""
    if not isinstance(value, dt.datetime):
        return dt.datetime.combine(value, dt.time())
    if value.tzinfo is not None and tz is not None:
        value = value.astimezone(tz)
    return value.replace(tzinfo=None)


def _says(component: Any, name: str, value: str) -> bool:
    return str(component.get(name, "")).upper() == value


def _text(given: Any) -> str:
    printable = "".join(each if each.isprintable() else " " for each in str(given or ""))
    return printable.strip()[:LONGEST_NAME] or "busy"
