"""Parser of iCalendar files (RFC 5545) from calendar programs, which converts them to days and windows of time.

Events are expanded within a range of days: repetitions with their exceptions, occurrences that were moved or cancelled,
and each time on the wall clock of one zone. A file with an event that cannot be read is refused, with an error for each
such event: a black-out that is silently missing would be noticed too late. An event that is read and adds nothing is
reported with its reason.
"""

import datetime as dt
import zoneinfo
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jobworker.domain.calendars.calendar_parser import MAX_DATES, MAX_NAME_LENGTH
from jobworker.domain.calendars.calendars import CalendarWindow
from jobworker.domain.calendars.icalendar.content_lines import (
    ICalendarComponent,
    ICalendarTooLarge,
    ParsingEffort,
    build_file_error,
    parse_calendars,
    quote_text,
)
from jobworker.domain.calendars.icalendar.events import (
    CANCELLED_REASON,
    CalendarEvent,
    UnreadableCalendarEvent,
    get_name,
    get_uid,
    parse_event,
)
from jobworker.domain.calendars.icalendar.series import EventSeries, build_series
from jobworker.domain.calendars.icalendar.time_zones import ICalendarTimeZones
from jobworker.domain.calendars.icalendar.values import clean_text
from jobworker.domain.errors import FieldError, InvalidInput

#: Maximum number of problems reported; the others are counted.
_MAX_PROBLEMS = 20

#: Maximum number of items in the lists of these properties, in sum: the dates that a calendar holds, and rules for 0.1
#: s.
_MAX_ITEMS = {"RDATE": MAX_DATES, "EXDATE": MAX_DATES, "RRULE": 1000, "EXRULE": 200}

#: Methods whose objects (RFC 5546) announce events; CANCEL cancels them, and the others reply to an invitation.
_PUBLISHING_METHODS = ("", "PUBLISH", "REQUEST", "ADD")

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class SkippedComponent:
    """A component, such as an event, that adds nothing to the calendar, with the reason."""

    uid: str | None
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ICalendarContents:
    """Contents of a file: named days and windows, on the wall clock of `zone` (None: no time needs one)."""

    events: int
    zone: str | None
    days: Mapping[dt.date, str]
    windows: Sequence[CalendarWindow]
    left_out: Sequence[SkippedComponent]


@dataclass(slots=True)
class _ParsingResult:
    """The parts of a file that have been read so far."""

    events: list[CalendarEvent] = field(default_factory=list)
    left_out: list[SkippedComponent] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    days: defaultdict[dt.date, list[str]] = field(default_factory=lambda: defaultdict(list))
    windows: set[CalendarWindow] = field(default_factory=set)

    def skip_event(self, event: CalendarEvent, reason: str) -> None:
        self.left_out.append(SkippedComponent(event.printable_uid, event.name, reason))

    def check_problems(self) -> None:
        """Raise `InvalidInput` with the events that cannot be read."""
        if not self.problems:
            return
        reported = self.problems[:_MAX_PROBLEMS]
        more = f"; and {len(self.problems) - len(reported)} more" if len(self.problems) > len(reported) else ""
        raise InvalidInput(
            "; ".join(reported) + more, [FieldError("", "bad_icalendar", problem) for problem in reported]
        )


def parse(file: bytes, zone: str | None, first: dt.date, end: dt.date, include_free: bool = False) -> ICalendarContents:
    """Return the contents of a file on the days from `first` up to `end`.

    `zone` None: the file's own zone. `include_free`: also events that do not block time (TRANSP:TRANSPARENT). Raises
    `InvalidInput` with the events that cannot be read.
    """
    result = _ParsingResult()
    try:
        objects = parse_calendars(file)
        effort = ParsingEffort()
        zones = ICalendarTimeZones(objects, effort)
        components = _parse_events(objects, zones, result, include_free)
        all_series = _build_series(result)
        result.check_problems()
        counting = [event for series in all_series for event in series.events if event.reason is None]
        key, tz = _choose_zone(zone, objects, zones, counting)
        _expand(all_series, tz, (first, end), result, effort)
    except ICalendarTooLarge as error:
        message = f"{error} (read from {first} to {end}); split it, or let its rules end"
        raise InvalidInput(message, [FieldError("", "too_large", message)]) from None
    named = {day: "; ".join(dict.fromkeys(names))[:MAX_NAME_LENGTH] for day, names in sorted(result.days.items())}
    ordered = sorted(result.windows, key=lambda window: (window.begin, window.end, window.name))
    return ICalendarContents(components, key, named, ordered, result.left_out)


def _parse_events(
    objects: Sequence[ICalendarComponent], zones: ICalendarTimeZones, result: _ParsingResult, include_free: bool
) -> int:
    """Parse the events of all calendar objects. Returns their number."""
    count = 0
    parts = [(calendar, part) for calendar in objects for part in calendar.parts if part.name != "VTIMEZONE"]
    for name, most in _MAX_ITEMS.items():
        items = sum(line.value.count(",") + 1 for _, part in parts for line in part.get_properties(name))
        if items > most:
            raise ICalendarTooLarge(f"{name} of the file's events lists {items} items, more than {most}")
    for calendar in objects:
        _check_calendar(calendar)
    for calendar, part in parts:
        method = calendar.get_text("METHOD")
        count += part.name == "VEVENT"
        if part.name != "VEVENT":
            _skip_component(part, f"it is a {clean_text(part.name, MAX_NAME_LENGTH)}; events (VEVENT) are read", result)
        elif method not in (*_PUBLISHING_METHODS, "CANCEL"):
            _skip_component(
                part, f"METHOD:{clean_text(method, MAX_NAME_LENGTH)} makes it an answer to an invitation", result
            )
        else:
            try:
                result.events.append(parse_event(part, zones.find_zone, include_free, method == "CANCEL"))
            except UnreadableCalendarEvent as error:
                result.problems.append(str(error))
    return count


def _skip_component(part: ICalendarComponent, reason: str, result: _ParsingResult) -> None:
    uid = get_uid(part)
    result.left_out.append(SkippedComponent(uid and clean_text(uid, MAX_NAME_LENGTH), get_name(part), reason))


def _check_calendar(calendar: ICalendarComponent) -> None:
    """Refuse a calendar whose version or scale differs from RFC 5545, because it would be misinterpreted."""
    version, scale = calendar.get_text("VERSION"), calendar.get_text("CALSCALE")
    if version not in ("", "2.0"):
        raise build_file_error(f"VERSION is {quote_text(version)}; export it as iCalendar, VERSION:2.0")
    if scale not in ("", "GREGORIAN"):
        raise build_file_error(f"CALSCALE is {quote_text(scale)}; only GREGORIAN is read")


def _build_series(result: _ParsingResult) -> list[EventSeries]:
    """Return the current versions of events, each with the events that replace its occurrences."""
    current: dict[object, CalendarEvent] = {}
    for at, event in enumerate(result.events):
        key = (event.uid, event.recurrence_id) if event.uid else at
        previous = current.get(key)
        older = event if previous is not None and previous.sequence > event.sequence else previous
        if older is not event:
            current[key] = event
        if older is not None:
            result.skip_event(older, "the file has a later version of it")
    cancelled = {
        event.uid
        for event in current.values()
        if event.uid and event.recurrence_id is None and event.reason == CANCELLED_REASON
    }
    kept = []
    for event in current.values():
        if event.uid in cancelled:
            result.skip_event(event, CANCELLED_REASON)
            continue
        kept.append(event)
        if event.reason is not None:
            result.skip_event(event, event.reason)
    return build_series(kept, result.problems)


def _choose_zone(
    zone: str | None, objects: Sequence[ICalendarComponent], zones: ICalendarTimeZones, events: Sequence[CalendarEvent]
) -> tuple[str | None, dt.tzinfo | None]:
    """Return the clock on which times are displayed: name and zone; None: no time needs one."""
    if zone is not None:
        return zone, zoneinfo.ZoneInfo(zone)
    used = {event.zone_key: event.tz for event in events if event.zone_key is not None}
    if not used:
        return None, None
    stated = {
        calendar.get_properties("X-WR-TIMEZONE")[0].value
        for calendar in objects
        if calendar.get_properties("X-WR-TIMEZONE")
    }
    if len(stated) == 1:
        try:
            tz = zones.find_zone(stated.pop())
        except ValueError:
            pass
        else:
            return str(getattr(tz, "key", tz)), tz
    used.pop("UTC", None)
    if len(used) == 1:
        return used.popitem()
    message = (
        "zone is needed: the file has times in UTC or in several zones, and names no time zone for them; "
        "give an IANA time zone such as Europe/Berlin"
    )
    raise InvalidInput(message, [FieldError("zone", "missing", message)])


def _expand(
    all_series: Sequence[EventSeries],
    zone: dt.tzinfo | None,
    date_range: tuple[dt.date, dt.date],
    result: _ParsingResult,
    effort: ParsingEffort,
) -> None:
    """Add the occurrences of the events to the result. Raises `ICalendarTooLarge` before that takes long."""
    counting = [series for series in all_series if series.has_active_events]
    for series in counting:
        series.charge_effort(*date_range, effort)
    for series in counting:
        entered = set()
        for event, begin, until in series.iterate_occurrences(*date_range, zone, effort):
            entered.add(id(event))
            _add_occurrence(result, event.name, begin, until)
            if len(result.days) > MAX_DATES or len(result.windows) > MAX_DATES:
                raise ICalendarTooLarge(f"the file has more than {MAX_DATES} days or windows")
        for event in series.events:
            if event.reason is None and id(event) not in entered:
                result.skip_event(event, f"nothing of it is from {date_range[0]} to {date_range[1]}")


def _add_occurrence(
    result: _ParsingResult, name: str, begin: dt.date | dt.datetime, until: dt.date | dt.datetime
) -> None:
    if isinstance(begin, dt.datetime) and isinstance(until, dt.datetime):
        result.windows.add(CalendarWindow(begin, until, name))
        return
    day = begin
    while day < until:
        result.days[day].append(name)
        day += _DAY
