"""Events of iCalendar files: when they are, how they repeat, and which occurrences they stand for."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobworker.domain.calendars.calendar_parser import MAX_NAME_LENGTH
from jobworker.domain.calendars.icalendar.content_lines import (
    ICalendarComponent,
    ICalendarProperty,
    ParsingEffort,
    quote_text,
)
from jobworker.domain.calendars.icalendar.values import (
    DAY,
    MAX_EVENT_DAYS,
    ZERO,
    DateOrDateTime,
    EventLength,
    ZoneFinder,
    clean_text,
    parse_date_list,
    parse_date_or_time,
    parse_duration,
    parse_recurrence,
    strip_time_zone,
    to_naive,
)
from jobworker.domain.schedules.rules import rrule_parser
from jobworker.domain.schedules.rules.rrule import RRule
from jobworker.domain.schedules.rules.rrule_parser import RRuleFrequency, RRuleParts

#: What is right instead; such rules make more windows than a calendar holds.
_SUBDAILY_HINT = (
    "FREQ must be DAILY, WEEKLY, MONTHLY or YEARLY, with one time of day: give it as one window, or several events"
)

#: What it takes to begin with a rule, in days.
_DAYS_PER_RULE = 15

#: Days; a rule that finds nothing more is followed to the end of the year.
_DAYS_PER_YEAR = 366

#: Why a cancelled event adds nothing.
CANCELLED_REASON = "it is cancelled"

#: Characters of an error message about one event.
_MAX_MESSAGE_LENGTH = 300


class UnreadableCalendarEvent(ValueError):
    """An event cannot be read; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class EventRecurrence:
    """A recurrence rule of an event, and where it ends: a time on the event's own clock, a number of occurrences."""

    text: str
    until: dt.datetime | None
    count: int | None
    #: Days a year that it looks at.
    days_per_year: float

    def charge_effort(self, start: dt.datetime, after: dt.datetime, before: dt.datetime, effort: ParsingEffort) -> None:
        """Spend what it takes to follow the rule; one with COUNT is charged while it is followed."""
        last = min(self.until or before, before)
        days = (last - max(start, after)).days
        followed = self.count is None and days >= 0
        effort.spend(0, _DAYS_PER_RULE + (days + _DAYS_PER_YEAR) * self._day_share if followed else _DAYS_PER_RULE)

    def iterate_begins(
        self, start: dt.datetime, after: dt.datetime, before: dt.datetime, effort: ParsingEffort
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
        effort.spend(0, ((last - seen).days + _DAYS_PER_YEAR) * self._day_share if counted else 0)

    @property
    def _day_share(self) -> float:
        """Return the part of all days that the rule looks at; a long rule takes longer for each."""
        return self.days_per_year / _DAYS_PER_YEAR * (1 + len(self.text) // 40)


def _estimate_days_per_year(parts: RRuleParts) -> float:
    """Return how many days a year a rule looks at; each month is about one more."""
    if parts.frequency is RRuleFrequency.DAILY:
        return 366
    bare = parts.frequency is RRuleFrequency.YEARLY and not (
        parts.month_days or parts.year_days or parts.days or parts.weeks
    )
    months = len(parts.months) or (1 if bare else 12)
    weight = (2 if parts.weeks else 1) * (2 if parts.positions else 1)
    if parts.days or parts.weeks or parts.frequency is RRuleFrequency.WEEKLY:
        return weight * months * (1 + 53 / 12 * max(1, len({weekday for _, weekday in parts.days})))
    return weight * months * (1 + len(parts.month_days)) + len(parts.year_days)


@dataclass(frozen=True, slots=True)
class CalendarEvent:
    """An event. Times are naive, on its own clock (`tz`; None: on whichever clock is looked at).

    `uid` and `instance` say which event it is, or which occurrence of the event with the same `uid` it stands for; with
    `following` also for those after it. `reason` is why it adds nothing, if so. `more` has lengths where they differ.
    """

    uid: str | None
    name: str
    start: dt.datetime
    length: EventLength
    all_day: bool
    tz: dt.tzinfo | None
    recurrence_id: DateOrDateTime | None
    applies_to_following: bool
    sequence: int
    reason: str | None
    rules: Sequence[EventRecurrence]
    exclusion_rules: Sequence[EventRecurrence]
    added_begins: Mapping[dt.datetime, EventLength | None]
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
        return _format_title(self.name, self.uid)

    def convert_to_zone(
        self, begin: dt.datetime, length: EventLength, zone: dt.tzinfo | None
    ) -> tuple[dt.datetime, dt.datetime]:
        """Return what the clock of `zone` shows at begin and end of an occurrence that begins at a time on its own.

        A time in a gap is shown after it.
        """
        if self.tz is None or zone is None or self.all_day:
            return begin, begin + length.sum
        exact = begin.replace(tzinfo=self.tz).astimezone(dt.UTC)
        whole = (begin + length.days * DAY).replace(tzinfo=self.tz).astimezone(dt.UTC) if length.days else exact
        return strip_time_zone(exact.astimezone(zone)), strip_time_zone((whole + length.exact).astimezone(zone))

    @property
    def printable_uid(self) -> str | None:
        """Return the UID as reports show it."""
        return None if self.uid is None else clean_text(self.uid, MAX_NAME_LENGTH)

    def convert_to_event_clock(self, value: DateOrDateTime, name: str) -> dt.datetime:
        """Return a time of this event as its clock shows it; raises `ValueError` for a time that has no place there."""
        if self.all_day:
            return _to_midnight(value, self.tz, name)
        return _to_event_time(value, self.tz, name)

    def compute_begins(
        self, after: dt.datetime, before: dt.datetime, effort: ParsingEffort
    ) -> Mapping[dt.datetime, EventLength | None]:
        """Return where it begins from about `after` to `before`, and the lengths of those with one of their own."""
        found: dict[dt.datetime, EventLength | None] = {self.start: None}
        for rule in self.rules:
            found.update(dict.fromkeys(rule.iterate_begins(self.start, after, before, effort)))
        found.update(self.added_begins)
        removed = self.removed_begins.union(
            *(rule.iterate_begins(self.start, after, before, effort) for rule in self.exclusion_rules)
        )
        return {
            begin: length
            for begin, length in found.items()
            if begin not in removed and begin.date() not in self.removed_days
        }


def parse_event(
    component: ICalendarComponent, find_zone: ZoneFinder, include_free: bool, cancelled: bool
) -> CalendarEvent:
    """Return the event that a VEVENT describes; raises `Unreadable`. `cancelled`: the whole calendar object is."""
    try:
        return _build_event(component, find_zone, include_free, cancelled)
    except (ValueError, OverflowError) as error:
        called = _format_title(get_name(component), get_uid(component))
        raise UnreadableCalendarEvent(f"{called}: {str(error)[:_MAX_MESSAGE_LENGTH]}") from None


def _format_title(name: str, uid: str | None) -> str:
    return f"event {name!r}" + (f" (UID {clean_text(uid, MAX_NAME_LENGTH)})" if uid else "")


def get_uid(component: ICalendarComponent) -> str | None:
    """Return the UID of a component, if it has one."""
    found = component.get_properties("UID")
    return found[0].value.strip() or None if found else None


def get_name(component: ICalendarComponent) -> str:
    """Return the name of a component."""
    found = component.get_properties("SUMMARY")
    return (clean_text(found[0].value, MAX_NAME_LENGTH) if found else "") or "busy"


def _build_event(
    component: ICalendarComponent, find_zone: ZoneFinder, include_free: bool, cancelled: bool
) -> CalendarEvent:
    if component.problems:
        raise ValueError(component.problems[0])
    given = component.get_property("DTSTART")
    if given is None:
        raise ValueError("DTSTART is missing")
    start = parse_date_or_time(given, find_zone)
    tz = start.tzinfo if isinstance(start, dt.datetime) else None
    # Outlook writes days as times from midnight to midnight.
    marked = component.get_text("X-MICROSOFT-CDO-ALLDAYEVENT") == "TRUE" and to_naive(start, tz).time() == dt.time()
    all_day = not isinstance(start, dt.datetime) or marked
    place = _to_midnight if all_day else _to_event_time
    length = _parse_length(component, start, all_day, find_zone)
    removed = [value for value, _ in parse_date_list(component, "EXDATE", find_zone)]
    instance, following = _parse_recurrence_id(component, find_zone)
    sequence = component.get_property("SEQUENCE")
    event = CalendarEvent(
        uid=get_uid(component),
        name=get_name(component),
        start=to_naive(start, tz),
        length=length,
        all_day=all_day,
        tz=tz,
        recurrence_id=instance,
        applies_to_following=following,
        sequence=_parse_sequence(sequence.value.strip()) if sequence else 0,
        reason=CANCELLED_REASON if cancelled else _find_skip_reason(component, length, include_free),
        rules=[_parse_rule(each, tz, all_day, find_zone) for each in component.get_properties("RRULE")],
        exclusion_rules=[_parse_rule(each, tz, all_day, find_zone) for each in component.get_properties("EXRULE")],
        added_begins={place(value, tz, "RDATE"): own for value, own in parse_date_list(component, "RDATE", find_zone)},
        removed_begins=frozenset(
            place(each, tz, "EXDATE") for each in removed if all_day or isinstance(each, dt.datetime)
        ),
        removed_days=frozenset(each for each in removed if not all_day and not isinstance(each, dt.datetime)),
    )
    if instance is not None and (event.rules or event.exclusion_rules or event.added_begins):
        raise ValueError(
            "RECURRENCE-ID makes it one occurrence of another event: it cannot have RRULE, RDATE or EXRULE"
        )
    return event


def _parse_sequence(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 10:
        raise ValueError(f"SEQUENCE is {quote_text(text)}; it must be a number such as 0")
    return int(text)


def _parse_recurrence_id(component: ICalendarComponent, find_zone: ZoneFinder) -> tuple[DateOrDateTime | None, bool]:
    given = component.get_property("RECURRENCE-ID")
    if given is None:
        return None, False
    reach = given.parameters.get("RANGE", "").upper()
    if reach not in ("", "THISANDFUTURE"):
        raise ValueError(f"RECURRENCE-ID: RANGE is {quote_text(reach)}; it must be THISANDFUTURE or left out")
    return parse_date_or_time(given, find_zone), bool(reach)


def _find_skip_reason(component: ICalendarComponent, length: EventLength, include_free: bool) -> str | None:
    """Return why the event adds nothing to a calendar, if so."""
    if component.get_text("STATUS") == "CANCELLED":
        return CANCELLED_REASON
    if length.sum == ZERO:
        return "it has no length: DTEND and DURATION are missing, or say none"
    for name, value in (("TRANSP", "TRANSPARENT"), ("X-MICROSOFT-CDO-BUSYSTATUS", "FREE")):
        if component.get_text(name) == value and not include_free:
            return f"it is free time ({name}:{value}); include_free=true takes it"
    return None


def _parse_length(
    component: ICalendarComponent, start: DateOrDateTime, all_day: bool, find_zone: ZoneFinder
) -> EventLength:
    end, lasts = component.get_property("DTEND"), component.get_property("DURATION")
    if end is not None and lasts is not None:
        raise ValueError("DTEND and DURATION exclude each other; leave one out")
    if end is not None:
        length = _compute_length(start, parse_date_or_time(end, find_zone), all_day)
    else:
        length = parse_duration(lasts) if lasts else EventLength(days=int(all_day))
    if not ZERO <= length.sum <= MAX_EVENT_DAYS * DAY:
        raise ValueError(f"DTEND must be 0 to {MAX_EVENT_DAYS} days after DTSTART")
    if not all_day:
        return length
    if length.exact % DAY:
        raise ValueError("DURATION of an event of whole days must be whole days, such as P1D")
    # Some programs say that a day begins and ends with itself.
    return EventLength(max(length.sum.days, 1))


def _compute_length(start: DateOrDateTime, end: DateOrDateTime, all_day: bool) -> EventLength:
    """Return the length up to DTEND: exactly the same for each occurrence, as RFC 5545 says (3.8.5.3)."""
    if isinstance(end, dt.datetime) != isinstance(start, dt.datetime):
        raise ValueError("DTSTART and DTEND must both be days, or both times")
    tz = start.tzinfo if isinstance(start, dt.datetime) else None
    wall = (to_naive(end, tz) if all_day else _to_event_time(end, tz, "DTEND")) - to_naive(start, tz)
    if wall < ZERO:
        raise ValueError("DTEND is before DTSTART")
    if tz is None or all_day or not isinstance(start, dt.datetime) or not isinstance(end, dt.datetime):
        return EventLength(exact=wall)
    return EventLength(
        exact=(end if end.tzinfo else end.replace(tzinfo=tz)).astimezone(dt.UTC) - start.astimezone(dt.UTC)
    )


def _parse_rule(prop: ICalendarProperty, tz: dt.tzinfo | None, all_day: bool, find_zone: ZoneFinder) -> EventRecurrence:
    expression, last, count = parse_recurrence(prop, find_zone)
    finer = {"FREQ=HOURLY", "FREQ=MINUTELY", "FREQ=SECONDLY"}.intersection(expression.split(";"))
    if finer:
        raise ValueError(f"{prop.name}: {finer.pop()} repeats within a day; {_SUBDAILY_HINT}")
    try:
        parts = rrule_parser.parse(expression)
    except ValueError as error:
        raise ValueError(f"{prop.name}: {error}") from None
    if any(len(each) > 1 for each in (parts.hours, parts.minutes, parts.seconds)):
        raise ValueError(f"{prop.name}: the event repeats within a day; {_SUBDAILY_HINT}")
    return EventRecurrence(
        expression, None if last is None else _parse_until(last, tz, all_day), count, _estimate_days_per_year(parts)
    )


def _parse_until(until: DateOrDateTime, tz: dt.tzinfo | None, all_day: bool) -> dt.datetime:
    """Return UNTIL on the event's clock. Many programs give a day for an event with a time: that day is included."""
    last = to_naive(until, tz)
    whole = all_day or not isinstance(until, dt.datetime)
    return dt.datetime.combine(last.date(), dt.time.max) if whole else last


def _to_midnight(value: DateOrDateTime, tz: dt.tzinfo | None, name: str) -> dt.datetime:
    """Return the day of a time that belongs to an event of whole days."""
    if tz is None and isinstance(value, dt.datetime) and value.tzinfo is dt.UTC and value.time() != dt.time():
        raise ValueError(f"{name} is a time in UTC and the event is on days; write it as {name};VALUE=DATE:20261224")
    return dt.datetime.combine(to_naive(value, tz).date(), dt.time())


def _to_event_time(value: DateOrDateTime, tz: dt.tzinfo | None, name: str) -> dt.datetime:
    """Return a time that belongs to an event with times, as its clock shows it."""
    if not isinstance(value, dt.datetime):
        raise ValueError(f"{name} is a day and DTSTART a time; write the time, too")
    if tz is None and value.tzinfo is not None:
        raise ValueError(f"{name} has a time zone and DTSTART has none; write both in the same way")
    return to_naive(value, tz)
