"""Events of iCalendar files: when they are, how they repeat, and which occurrences they stand for."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobworker.domain.calendar_reading import LONGEST_NAME
from jobworker.domain.icalendar_lines import Component, Effort, Property, quoted
from jobworker.domain.icalendar_values import (
    DAY,
    LONGEST,
    NOTHING,
    FindZone,
    Length,
    Moment,
    duration,
    moment,
    moments,
    naive,
    recurrence,
    text,
    wall,
)
from jobworker.domain.rules import rrule_reading
from jobworker.domain.rules.recurrence import RRule
from jobworker.domain.rules.rrule_reading import Frequency, Parts

#: What is right instead; such rules make more windows than a calendar holds.
_WITHIN_A_DAY = (
    "FREQ must be DAILY, WEEKLY, MONTHLY or YEARLY, with one time of day: give it as one window, or several events"
)

#: What it takes to begin with a rule, in days.
_EACH_RULE = 15

#: Days; a rule that finds nothing more is followed to the end of the year.
_YEAR = 366

#: Why a cancelled event adds nothing.
CANCELLED = "it is cancelled"

#: Characters of an error message about one event.
_LONGEST_MESSAGE = 300


class Unreadable(ValueError):
    """An event cannot be read; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A recurrence rule of an event, and where it ends: a time on the event's own clock, a number of occurrences."""

    text: str
    until: dt.datetime | None
    count: int | None
    #: Days a year that it looks at.
    days_per_year: float

    def charge_effort(self, start: dt.datetime, after: dt.datetime, before: dt.datetime, effort: Effort) -> None:
        """Spend what it takes to follow the rule; one with COUNT is charged while it is followed."""
        last = min(self.until or before, before)
        days = (last - max(start, after)).days
        followed = self.count is None and days >= 0
        effort.spend(0, _EACH_RULE + (days + _YEAR) * self._day_share if followed else _EACH_RULE)

    def iterate_begins(
        self, start: dt.datetime, after: dt.datetime, before: dt.datetime, effort: Effort
    ) -> Iterator[dt.datetime]:
        """Return the occurrences from `after` to `before` of an event that starts at `start`."""
        last = min(self.until or before, before)
        if start > last or after > last:
            return
        # A rule with COUNT must be followed from its first occurrence on.
        counted = self.count is not None
        seen = start if counted else max(start, after)
        for number, begin in enumerate(RRule(self.text, start).iterate_times(seen, last), 1):
            effort.spend(1, (begin - seen).days * self._day_share if counted else 0)
            seen = begin
            if begin >= after:
                yield begin
            if number == self.count:
                return
        effort.spend(0, ((last - seen).days + _YEAR) * self._day_share if counted else 0)

    @property
    def _day_share(self) -> float:
        """Return the part of all days that the rule looks at; a long rule takes longer for each."""
        return self.days_per_year / _YEAR * (1 + len(self.text) // 40)


def _looked_at(parts: Parts) -> float:
    """Return how many days a year a rule looks at; each month is about one more."""
    if parts.frequency is Frequency.DAILY:
        return 366
    bare = parts.frequency is Frequency.YEARLY and not (
        parts.month_days or parts.year_days or parts.days or parts.weeks
    )
    months = len(parts.months) or (1 if bare else 12)
    weight = (2 if parts.weeks else 1) * (2 if parts.positions else 1)
    if parts.days or parts.weeks or parts.frequency is Frequency.WEEKLY:
        return weight * months * (1 + 53 / 12 * max(1, len({weekday for _, weekday in parts.days})))
    return weight * months * (1 + len(parts.month_days)) + len(parts.year_days)


@dataclass(frozen=True, slots=True)
class Event:
    """An event. Times are naive, on its own clock (`tz`; None: on whichever clock is looked at).

    `uid` and `instance` say which event it is, or which occurrence of the event with the same `uid` it stands for; with
    `following` also for those after it. `reason` is why it adds nothing, if so. `more` has lengths where they differ.
    """

    uid: str | None
    name: str
    start: dt.datetime
    length: Length
    all_day: bool
    tz: dt.tzinfo | None
    recurrence_id: Moment | None
    applies_to_following: bool
    sequence: int
    reason: str | None
    rules: Sequence[Rule]
    exclusion_rules: Sequence[Rule]
    added_begins: Mapping[dt.datetime, Length | None]
    removed_begins: frozenset[dt.datetime]
    removed_days: frozenset[dt.date]

    @property
    def zone_key(self) -> str | None:
        """Return the name of the zone of its times; None if it needs none."""
        if self.tz is None or self.all_day:
            return None
        return str(getattr(self.tz, "key", self.tz))

    @property
    def title(self) -> str:
        """Return how messages name it."""
        return _title(self.name, self.uid)

    def convert_to_zone(self, begin: dt.datetime, length: Length, zone: dt.tzinfo | None) -> tuple[dt.datetime, dt.datetime]:
        """Return what the clock of `zone` shows at begin and end of an occurrence that begins at a time on its own.

        A time in a gap is shown after it.
        """
        if self.tz is None or zone is None or self.all_day:
            return begin, begin + length.sum
        exact = begin.replace(tzinfo=self.tz).astimezone(dt.UTC)
        whole = (begin + length.days * DAY).replace(tzinfo=self.tz).astimezone(dt.UTC) if length.days else exact
        return wall(exact.astimezone(zone)), wall((whole + length.exact).astimezone(zone))

    @property
    def printable_uid(self) -> str | None:
        """Return the UID as reports show it."""
        return None if self.uid is None else text(self.uid, LONGEST_NAME)

    def convert_to_event_clock(self, value: Moment, name: str) -> dt.datetime:
        """Return a time of this event as its clock shows it; raises `ValueError` for a time that has no place there."""
        if self.all_day:
            return _midnight(value, self.tz, name)
        return _matching(value, self.tz, name)

    def compute_begins(self, after: dt.datetime, before: dt.datetime, effort: Effort) -> Mapping[dt.datetime, Length | None]:
        """Return where it begins from about `after` to `before`, and the lengths of those with one of their own."""
        found: dict[dt.datetime, Length | None] = {self.start: None}
        for rule in self.rules:
            found.update(dict.fromkeys(rule.iterate_begins(self.start, after, before, effort)))
        found.update(self.added_begins)
        removed = self.removed_begins.union(*(rule.iterate_begins(self.start, after, before, effort) for rule in self.exclusion_rules))
        return {
            begin: length
            for begin, length in found.items()
            if begin not in removed and begin.date() not in self.removed_days
        }


def event_of(component: Component, find: FindZone, include_free: bool, cancelled: bool) -> Event:
    """Return the event that a VEVENT describes; raises `Unreadable`. `cancelled`: the whole calendar object is."""
    try:
        return _event(component, find, include_free, cancelled)
    except (ValueError, OverflowError) as error:
        called = _title(name_of(component), uid_of(component))
        raise Unreadable(f"{called}: {str(error)[:_LONGEST_MESSAGE]}") from None


def _title(name: str, uid: str | None) -> str:
    return f"event {name!r}" + (f" (UID {text(uid, LONGEST_NAME)})" if uid else "")


def uid_of(component: Component) -> str | None:
    """Return the UID of a component, if it has one."""
    found = component.get_properties("UID")
    return found[0].value.strip() or None if found else None


def name_of(component: Component) -> str:
    """Return the name of a component."""
    found = component.get_properties("SUMMARY")
    return (text(found[0].value, LONGEST_NAME) if found else "") or "busy"


def _event(component: Component, find: FindZone, include_free: bool, cancelled: bool) -> Event:
    if component.problems:
        raise ValueError(component.problems[0])
    given = component.get_property("DTSTART")
    if given is None:
        raise ValueError("DTSTART is missing")
    start = moment(given, find)
    tz = start.tzinfo if isinstance(start, dt.datetime) else None
    # Outlook writes days as times from midnight to midnight.
    marked = component.get_text("X-MICROSOFT-CDO-ALLDAYEVENT") == "TRUE" and naive(start, tz).time() == dt.time()
    all_day = not isinstance(start, dt.datetime) or marked
    place = _midnight if all_day else _matching
    length = _length(component, start, all_day, find)
    removed = [value for value, _ in moments(component, "EXDATE", find)]
    instance, following = _instance(component, find)
    sequence = component.get_property("SEQUENCE")
    event = Event(
        uid=uid_of(component),
        name=name_of(component),
        start=naive(start, tz),
        length=length,
        all_day=all_day,
        tz=tz,
        recurrence_id=instance,
        applies_to_following=following,
        sequence=_sequence(sequence.value.strip()) if sequence else 0,
        reason=CANCELLED if cancelled else _reason(component, length, include_free),
        rules=[_rule(each, tz, all_day, find) for each in component.get_properties("RRULE")],
        exclusion_rules=[_rule(each, tz, all_day, find) for each in component.get_properties("EXRULE")],
        added_begins={place(value, tz, "RDATE"): own for value, own in moments(component, "RDATE", find)},
        removed_begins=frozenset(place(each, tz, "EXDATE") for each in removed if all_day or isinstance(each, dt.datetime)),
        removed_days=frozenset(each for each in removed if not all_day and not isinstance(each, dt.datetime)),
    )
    if instance is not None and (event.rules or event.exclusion_rules or event.added_begins):
        raise ValueError(
            "RECURRENCE-ID makes it one occurrence of another event: it cannot have RRULE, RDATE or EXRULE"
        )
    return event


def _sequence(given: str) -> int:
    if not given.isascii() or not given.isdecimal() or len(given) > 10:
        raise ValueError(f"SEQUENCE is {quoted(given)}; it must be a number such as 0")
    return int(given)


def _instance(component: Component, find: FindZone) -> tuple[Moment | None, bool]:
    given = component.get_property("RECURRENCE-ID")
    if given is None:
        return None, False
    reach = given.parameters.get("RANGE", "").upper()
    if reach not in ("", "THISANDFUTURE"):
        raise ValueError(f"RECURRENCE-ID: RANGE is {quoted(reach)}; it must be THISANDFUTURE or left out")
    return moment(given, find), bool(reach)


def _reason(component: Component, length: Length, include_free: bool) -> str | None:
    """Return why the event adds nothing to a calendar, if so."""
    if component.get_text("STATUS") == "CANCELLED":
        return CANCELLED
    if length.sum == NOTHING:
        return "it has no length: DTEND and DURATION are missing, or say none"
    for name, value in (("TRANSP", "TRANSPARENT"), ("X-MICROSOFT-CDO-BUSYSTATUS", "FREE")):
        if component.get_text(name) == value and not include_free:
            return f"it is free time ({name}:{value}); include_free=true takes it"
    return None


def _length(component: Component, start: Moment, all_day: bool, find: FindZone) -> Length:
    end, lasts = component.get_property("DTEND"), component.get_property("DURATION")
    if end is not None and lasts is not None:
        raise ValueError("DTEND and DURATION exclude each other; leave one out")
    if end is not None:
        length = _until(start, moment(end, find), all_day)
    else:
        length = duration(lasts) if lasts else Length(days=int(all_day))
    if not NOTHING <= length.sum <= LONGEST * DAY:
        raise ValueError(f"DTEND must be 0 to {LONGEST} days after DTSTART")
    if not all_day:
        return length
    if length.exact % DAY:
        raise ValueError("DURATION of an event of whole days must be whole days, such as P1D")
    # Some programs say that a day begins and ends with itself.
    return Length(max(length.sum.days, 1))


def _until(start: Moment, end: Moment, all_day: bool) -> Length:
    """Return the length up to DTEND: exactly the same for each occurrence, as RFC 5545 says (3.8.5.3)."""
    if isinstance(end, dt.datetime) != isinstance(start, dt.datetime):
        raise ValueError("DTSTART and DTEND must both be days, or both times")
    tz = start.tzinfo if isinstance(start, dt.datetime) else None
    wall = (naive(end, tz) if all_day else _matching(end, tz, "DTEND")) - naive(start, tz)
    if wall < NOTHING:
        raise ValueError("DTEND is before DTSTART")
    if tz is None or all_day or not isinstance(start, dt.datetime) or not isinstance(end, dt.datetime):
        return Length(exact=wall)
    return Length(exact=(end if end.tzinfo else end.replace(tzinfo=tz)).astimezone(dt.UTC) - start.astimezone(dt.UTC))


def _rule(given: Property, tz: dt.tzinfo | None, all_day: bool, find: FindZone) -> Rule:
    expression, last, count = recurrence(given, find)
    finer = {"FREQ=HOURLY", "FREQ=MINUTELY", "FREQ=SECONDLY"}.intersection(expression.split(";"))
    if finer:
        raise ValueError(f"{given.name}: {finer.pop()} repeats within a day; {_WITHIN_A_DAY}")
    try:
        parts = rrule_reading.read(expression)
    except ValueError as error:
        raise ValueError(f"{given.name}: {error}") from None
    if any(len(each) > 1 for each in (parts.hours, parts.minutes, parts.seconds)):
        raise ValueError(f"{given.name}: the event repeats within a day; {_WITHIN_A_DAY}")
    return Rule(expression, None if last is None else _last(last, tz, all_day), count, _looked_at(parts))


def _last(given: Moment, tz: dt.tzinfo | None, all_day: bool) -> dt.datetime:
    """Return UNTIL on the event's clock. Many programs give a day for an event with a time: that day is included."""
    last = naive(given, tz)
    whole = all_day or not isinstance(given, dt.datetime)
    return dt.datetime.combine(last.date(), dt.time.max) if whole else last


def _midnight(value: Moment, tz: dt.tzinfo | None, name: str) -> dt.datetime:
    """Return the day of a time that belongs to an event of whole days."""
    if tz is None and isinstance(value, dt.datetime) and value.tzinfo is dt.UTC and value.time() != dt.time():
        raise ValueError(f"{name} is a time in UTC and the event is on days; write it as {name};VALUE=DATE:20261224")
    return dt.datetime.combine(naive(value, tz).date(), dt.time())


def _matching(value: Moment, tz: dt.tzinfo | None, name: str) -> dt.datetime:
    """Return a time that belongs to an event with times, as its clock shows it."""
    if not isinstance(value, dt.datetime):
        raise ValueError(f"{name} is a day and DTSTART a time; write the time, too")
    if tz is None and value.tzinfo is not None:
        raise ValueError(f"{name} has a time zone and DTSTART has none; write both in the same way")
    return naive(value, tz)
