"""Events of iCalendar files: their times and repetitions, and the occurrences that they replace."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobworker.domain.calendars.calendar_parser import MAX_NAME_LENGTH
from jobworker.domain.calendars.icalendar.content_lines import (
    ICalendarComponent,
    ParsingEffort,
    quote_text,
)
from jobworker.domain.calendars.icalendar.recurrence import EventRecurrence, parse_rule
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
    strip_time_zone,
    to_naive,
)

#: Reason why a cancelled event adds nothing.
CANCELLED_REASON = "it is cancelled"

#: Maximum length of an error message about one event (characters).
_MAX_MESSAGE_LENGTH = 300


class UnreadableCalendarEvent(ValueError):
    """Error for an event that cannot be read; the message contains the event's title and the reason."""


@dataclass(frozen=True, slots=True)
class CalendarEvent:
    """An event. Times are naive, on its own clock (`tz`; None: on the clock of the reader).

    `uid` identifies the event. With `recurrence_id` the event replaces one occurrence of the event of that `uid`; with
    `applies_to_following` also those after it. `reason` states why the event adds nothing, if so. `added_begins` has
    lengths for occurrences whose length differs.
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
        """The name of the zone of the event's times; None if they need no zone."""
        if self.tz is None or self.all_day:
            return None
        return str(getattr(self.tz, "key", self.tz))

    @property
    def title(self) -> str:
        """The event's name in messages."""
        return _format_title(self.name, self.uid)

    def convert_to_zone(
        self, begin: dt.datetime, length: EventLength, zone: dt.tzinfo | None
    ) -> tuple[dt.datetime, dt.datetime]:
        """Return begin and end of an occurrence on the clock of `zone`; `begin` is on the event's own clock.

        A time in a gap is shifted to the time after it.
        """
        if self.tz is None or zone is None or self.all_day:
            return begin, begin + length.sum
        exact = begin.replace(tzinfo=self.tz).astimezone(dt.UTC)
        whole = (begin + length.days * DAY).replace(tzinfo=self.tz).astimezone(dt.UTC) if length.days else exact
        return strip_time_zone(exact.astimezone(zone)), strip_time_zone((whole + length.exact).astimezone(zone))

    @property
    def printable_uid(self) -> str | None:
        """The UID for reports."""
        return None if self.uid is None else clean_text(self.uid, MAX_NAME_LENGTH)

    def convert_to_event_clock(self, value: DateOrDateTime, name: str) -> dt.datetime:
        """Return a time on the event's own clock. Raises `ValueError` if the event cannot have such a time."""
        if self.all_day:
            return _to_midnight(value, self.tz, name)
        return _to_event_time(value, self.tz, name)

    def compute_begins(
        self, after: dt.datetime, before: dt.datetime, effort: ParsingEffort
    ) -> Mapping[dt.datetime, EventLength | None]:
        """Return the begins from about `after` to `before`, with the lengths of those that have one of their own."""
        lengths_by_begin: dict[dt.datetime, EventLength | None] = {self.start: None}
        for rule in self.rules:
            lengths_by_begin.update(dict.fromkeys(rule.iterate_begins(self.start, after, before, effort)))
        lengths_by_begin.update(self.added_begins)
        removed = self.removed_begins.union(
            *(rule.iterate_begins(self.start, after, before, effort) for rule in self.exclusion_rules)
        )
        return {
            begin: length
            for begin, length in lengths_by_begin.items()
            if begin not in removed and begin.date() not in self.removed_days
        }


def parse_event(
    component: ICalendarComponent, find_zone: ZoneFinder, include_free: bool, cancelled: bool
) -> CalendarEvent:
    """Return the event of a VEVENT. `cancelled`: the calendar object cancels its events.

    Raises `UnreadableCalendarEvent`.
    """
    try:
        return _build_event(component, find_zone, include_free, cancelled)
    except (ValueError, OverflowError) as error:
        called = _format_title(get_name(component), get_uid(component))
        raise UnreadableCalendarEvent(f"{called}: {str(error)[:_MAX_MESSAGE_LENGTH]}") from None


def _format_title(name: str, uid: str | None) -> str:
    return f"event {name!r}" + (f" (UID {clean_text(uid, MAX_NAME_LENGTH)})" if uid else "")


def get_uid(component: ICalendarComponent) -> str | None:
    """Return the UID of a component, if there is one."""
    properties = component.get_properties("UID")
    return properties[0].value.strip() or None if properties else None


def get_name(component: ICalendarComponent) -> str:
    """Return the name of a component."""
    properties = component.get_properties("SUMMARY")
    return (clean_text(properties[0].value, MAX_NAME_LENGTH) if properties else "") or "busy"


def _build_event(
    component: ICalendarComponent, find_zone: ZoneFinder, include_free: bool, cancelled: bool
) -> CalendarEvent:
    if component.problems:
        raise ValueError(component.problems[0])
    start_property = component.get_property("DTSTART")
    if start_property is None:
        raise ValueError("DTSTART is missing")
    start = parse_date_or_time(start_property, find_zone)
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
        rules=[parse_rule(prop, tz, all_day, find_zone) for prop in component.get_properties("RRULE")],
        exclusion_rules=[parse_rule(prop, tz, all_day, find_zone) for prop in component.get_properties("EXRULE")],
        added_begins={place(value, tz, "RDATE"): own for value, own in parse_date_list(component, "RDATE", find_zone)},
        removed_begins=frozenset(
            place(value, tz, "EXDATE") for value in removed if all_day or isinstance(value, dt.datetime)
        ),
        removed_days=frozenset(value for value in removed if not all_day and not isinstance(value, dt.datetime)),
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
    recurrence_property = component.get_property("RECURRENCE-ID")
    if recurrence_property is None:
        return None, False
    reach = recurrence_property.parameters.get("RANGE", "").upper()
    if reach not in ("", "THISANDFUTURE"):
        raise ValueError(f"RECURRENCE-ID: RANGE is {quote_text(reach)}; it must be THISANDFUTURE or left out")
    return parse_date_or_time(recurrence_property, find_zone), bool(reach)


def _find_skip_reason(component: ICalendarComponent, length: EventLength, include_free: bool) -> str | None:
    """Return the reason why the event adds nothing to a calendar; None if the event adds time."""
    if component.get_text("STATUS") == "CANCELLED":
        return CANCELLED_REASON
    if length.sum == ZERO:
        return "it has no length: DTEND and DURATION are missing or zero"
    for name, value in (("TRANSP", "TRANSPARENT"), ("X-MICROSOFT-CDO-BUSYSTATUS", "FREE")):
        if component.get_text(name) == value and not include_free:
            return f"it is free time ({name}:{value}); include_free=true imports it"
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
    # Some programs write a day with its begin as its end.
    return EventLength(max(length.sum.days, 1))


def _compute_length(start: DateOrDateTime, end: DateOrDateTime, all_day: bool) -> EventLength:
    """Return the length up to DTEND, which is exact and equal for each occurrence (RFC 5545, 3.8.5.3)."""
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


def _to_midnight(value: DateOrDateTime, tz: dt.tzinfo | None, name: str) -> dt.datetime:
    """Return the day of a time that belongs to an event of whole days."""
    if tz is None and isinstance(value, dt.datetime) and value.tzinfo is dt.UTC and value.time() != dt.time():
        raise ValueError(f"{name} is a time in UTC and the event is on days; write it as {name};VALUE=DATE:20261224")
    return dt.datetime.combine(to_naive(value, tz).date(), dt.time())


def _to_event_time(value: DateOrDateTime, tz: dt.tzinfo | None, name: str) -> dt.datetime:
    """Return a time that belongs to an event with times, on the event's clock."""
    if not isinstance(value, dt.datetime):
        raise ValueError(f"{name} is a day and DTSTART a time; write the time, too")
    if tz is None and value.tzinfo is not None:
        raise ValueError(f"{name} has a time zone and DTSTART has none; write both in the same way")
    return to_naive(value, tz)
