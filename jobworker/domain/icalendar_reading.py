"""iCalendar files (RFC 5545), as calendar programs export them, read into days and windows of time.

Events are expanded within a range of days: repetitions with their exceptions, single instances that were moved or
cancelled, and each time on the wall clock of one zone. A file of which any event cannot be read is refused as a whole:
a black-out that is silently missing would be noticed too late.
"""

import datetime as dt
import zoneinfo
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobworker.domain.calendar_reading import LONGEST_NAME, MOST_DATES
from jobworker.domain.calendars import Window
from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.icalendar_events import Effort, Event, TooMuch, Unreadable, event_of

#: Bytes of a file: ten times what 5,000 events of a calendar program need.
LARGEST = 5 * 1024 * 1024

_MOST_EVENTS = 5000

#: Each is followed from its first occurrence on, be that decades ago.
_MOST_REPEATED = 500

#: Who has made so many mistakes has made one many times.
_MOST_PROBLEMS = 20

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An event that adds nothing to the calendar, and why."""

    uid: str | None
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file says: days with their names and windows, on the wall clock of `zone` (None: no time needs one)."""

    events: int
    zone: str | None
    days: Mapping[dt.date, str]
    windows: Sequence[Window]
    left_out: Sequence[LeftOut]


def read(file: bytes, zone: str | None, first: dt.date, end: dt.date) -> Contents:
    """What the file has on the days from `first` up to `end`; raises `InvalidInput` with what cannot be read.

    `zone` None: the file's own.
    """
    components = _components(file)
    events = _events(components)
    zone = zone or _zone_of(components, events)
    left_out: list[LeftOut] = []
    days: defaultdict[dt.date, list[str]] = defaultdict(list)
    windows: set[Window] = set()
    try:
        _expand(events, zoneinfo.ZoneInfo(zone) if zone else None, (first, end), days, windows, left_out)
    except TooMuch as error:
        message = f"{error}, from {first} to {end}; split it"
        raise InvalidInput(message, [FieldError("", "too_large", message)]) from None
    named = {day: "; ".join(dict.fromkeys(names))[:LONGEST_NAME] for day, names in sorted(days.items())}
    ordered = sorted(windows, key=lambda window: (window.begin, window.end, window.name))
    return Contents(len(events), zone, named, ordered, left_out)


def _expand(
    events: Sequence[Event],
    zone: dt.tzinfo | None,
    within: tuple[dt.date, dt.date],
    days: defaultdict[dt.date, list[str]],
    windows: set[Window],
    left_out: list[LeftOut],
) -> None:
    """Enter what the events come to; raises `TooMuch` before that takes long."""
    effort = Effort()
    for event, exceptions in _latest(events, left_out):
        found = False
        for begin, until in event.occurrences(*within, zone, exceptions, effort):
            found = True
            _enter(days, windows, event.name, begin, until)
            if len(days) > MOST_DATES or len(windows) > MOST_DATES:
                raise TooMuch(f"the file has more than {MOST_DATES} days or windows")
        if not found:
            left_out.append(LeftOut(event.uid, event.name, f"nothing of it is from {within[0]} to {within[1]}"))


def _components(file: bytes) -> list[Any]:
    # A big library that most processes never need.
    import icalendar

    if len(file) > LARGEST:
        raise _bad(f"the file has {len(file)} bytes; at most {LARGEST} are read")
    try:
        text = file.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(f"the file is not UTF-8 text: {error}") from None
    if not text.strip().upper().startswith("BEGIN:VCALENDAR"):
        raise _bad("this is not an iCalendar file: it must begin with BEGIN:VCALENDAR")
    if not text.strip().upper().endswith("END:VCALENDAR"):
        raise _bad("the file is cut off: it must end with END:VCALENDAR")
    if text.upper().count("BEGIN:VEVENT") > _MOST_EVENTS:
        raise _bad(f"the file has more than {_MOST_EVENTS} events; split it")
    try:
        return list(icalendar.Calendar.from_ical(text, multiple=True))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _bad(f"this is not an iCalendar file: {str(error)[:200]}") from None


def _events(components: Sequence[Any]) -> list[Event]:
    found, problems = [], []
    for component in (event for each in components for event in each.walk("VEVENT")):
        try:
            found.append(event_of(component))
        except Unreadable as error:
            problems.append(FieldError("", "bad_icalendar", str(error)))
    if sum(bool(event.rules) for event in found) > _MOST_REPEATED:
        raise _bad(f"the file has more than {_MOST_REPEATED} events that repeat; split it")
    if problems:
        raise InvalidInput("; ".join(each.message for each in problems[:_MOST_PROBLEMS]), problems[:_MOST_PROBLEMS])
    return found


def _zone_of(components: Sequence[Any], events: Sequence[Event]) -> str | None:
    """The zone on whose clock the file's times are meant; None: they are all without a zone."""
    zones = {event.zone for event in events if event.zone is not None}
    if not zones:
        return None
    stated = {str(each["X-WR-TIMEZONE"]) for each in components if "X-WR-TIMEZONE" in each}
    for names in (stated, zones - {"UTC"}):
        if len(names) == 1 and names <= zoneinfo.available_timezones():
            return names.pop()
    message = (
        "zone is needed: the file has times in UTC or in several zones, and does not say on which wall clock they are "
        "meant; give an IANA time zone such as Europe/Berlin"
    )
    raise InvalidInput(message, [FieldError("zone", "missing", message)])


def _latest(events: Sequence[Event], left_out: list[LeftOut]) -> Iterator[tuple[Event, set[dt.datetime]]]:
    """The events that count, each with the occurrences that others stand for: those of its single instances."""
    current: dict[object, Event] = {}
    for at, event in enumerate(events):
        key = (event.uid, event.instance) if event.uid else at
        other = current.get(key)
        older = event if other is not None and other.sequence > event.sequence else other
        if older is not event:
            current[key] = event
        if older is not None:
            left_out.append(LeftOut(older.uid, older.name, "the file has a later version of it"))
    instances: defaultdict[str, set[dt.datetime]] = defaultdict(set)
    cancelled = {event.uid for event in current.values() if event.cancelled and event.instance is None and event.uid}
    for event in current.values():
        if event.uid and event.instance is not None:
            instances[event.uid].add(event.instance)
    for event in current.values():
        if event.cancelled or event.uid in cancelled:
            left_out.append(LeftOut(event.uid, event.name, "it is cancelled"))
        elif event.length <= dt.timedelta(0):
            left_out.append(LeftOut(event.uid, event.name, "it has no length"))
        else:
            yield event, instances[event.uid] if event.uid and event.instance is None else set()


def _enter(
    days: defaultdict[dt.date, list[str]],
    windows: set[Window],
    name: str,
    begin: dt.date | dt.datetime,
    until: dt.date | dt.datetime,
) -> None:
    if isinstance(begin, dt.datetime) and isinstance(until, dt.datetime):
        windows.add(Window(begin, until, name))
        return
    day = begin
    while day < until:
        days[day].append(name)
        day += _DAY


def _bad(message: str) -> InvalidInput:
    return InvalidInput(message, [FieldError("", "bad_icalendar", message)])
