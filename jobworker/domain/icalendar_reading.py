"""iCalendar files (RFC 5545), as calendar programs export them, read into days and windows of time.

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

from jobworker.domain.calendar_reading import LONGEST_NAME, MOST_DATES
from jobworker.domain.calendars import Window
from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.icalendar_events import CANCELLED, Event, Unreadable, event_of, name_of, uid_of
from jobworker.domain.icalendar_lines import Component, Effort, TooMuch, bad, calendars, quoted
from jobworker.domain.icalendar_series import Series, series_of
from jobworker.domain.icalendar_values import text
from jobworker.domain.icalendar_zones import Zones

#: Problems that are told; the rest is counted.
_MOST_PROBLEMS = 20

#: Items in the lists of these properties, in sum: the dates that a calendar holds, and rules for 0.1 s.
_MOST_ITEMS = {"RDATE": MOST_DATES, "EXDATE": MOST_DATES, "RRULE": 1000, "EXRULE": 200}

#: Objects of these methods (RFC 5546) announce events; CANCEL takes them back, and the others answer an invitation.
_ANNOUNCING = ("", "PUBLISH", "REQUEST", "ADD")

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An event, or another component, that adds nothing to the calendar, and why."""

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


@dataclass(slots=True)
class _Found:
    """What has been read of a file so far."""

    events: list[Event] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    days: defaultdict[dt.date, list[str]] = field(default_factory=lambda: defaultdict(list))
    windows: set[Window] = field(default_factory=set)

    def skip_event(self, event: Event, reason: str) -> None:
        self.left_out.append(LeftOut(event.printable_uid, event.name, reason))

    def check_problems(self) -> None:
        """Raise `InvalidInput` with the events that cannot be read."""
        if not self.problems:
            return
        told = self.problems[:_MOST_PROBLEMS]
        more = f"; and {len(self.problems) - len(told)} more" if len(self.problems) > len(told) else ""
        raise InvalidInput("; ".join(told) + more, [FieldError("", "bad_icalendar", each) for each in told])


def read(file: bytes, zone: str | None, first: dt.date, end: dt.date, include_free: bool = False) -> Contents:
    """Return what the file has on the days from `first` up to `end`; raises `InvalidInput` with what cannot be read.

    `zone` None: the file's own. `include_free`: also events that do not block time (TRANSP:TRANSPARENT).
    """
    found = _Found()
    try:
        objects = calendars(file)
        effort = Effort()
        zones = Zones(objects, effort)
        components = _read_events(objects, zones, found, include_free)
        every = _series(found)
        found.check_problems()
        counting = [event for each in every for event in each.events if event.reason is None]
        key, tz = _zone(zone, objects, zones, counting)
        _expand(every, tz, (first, end), found, effort)
    except TooMuch as error:
        message = f"{error} (read from {first} to {end}); split it, or let its rules end"
        raise InvalidInput(message, [FieldError("", "too_large", message)]) from None
    named = {day: "; ".join(dict.fromkeys(names))[:LONGEST_NAME] for day, names in sorted(found.days.items())}
    ordered = sorted(found.windows, key=lambda window: (window.begin, window.end, window.name))
    return Contents(components, key, named, ordered, found.left_out)


def _read_events(objects: Sequence[Component], zones: Zones, found: _Found, include_free: bool) -> int:
    """Read the events of all calendar objects; returns how many there are."""
    count = 0
    parts = [(each, part) for each in objects for part in each.parts if part.name != "VTIMEZONE"]
    for name, most in _MOST_ITEMS.items():
        items = sum(line.value.count(",") + 1 for _, part in parts for line in part.get_properties(name))
        if items > most:
            raise TooMuch(f"{name} of the file's events lists {items} items, more than {most}")
    for calendar in objects:
        _check(calendar)
    for calendar, part in parts:
        method = calendar.get_text("METHOD")
        count += part.name == "VEVENT"
        if part.name != "VEVENT":
            _leave_out(part, f"it is a {text(part.name, LONGEST_NAME)}; events (VEVENT) are read", found)
        elif method not in (*_ANNOUNCING, "CANCEL"):
            _leave_out(part, f"METHOD:{text(method, LONGEST_NAME)} makes it an answer to an invitation", found)
        else:
            try:
                found.events.append(event_of(part, zones.find_zone, include_free, method == "CANCEL"))
            except Unreadable as error:
                found.problems.append(str(error))
    return count


def _leave_out(part: Component, reason: str, found: _Found) -> None:
    uid = uid_of(part)
    found.left_out.append(LeftOut(uid and text(uid, LONGEST_NAME), name_of(part), reason))


def _check(calendar: Component) -> None:
    """Refuse what looks like a calendar of RFC 5545, and is read in another way."""
    version, scale = calendar.get_text("VERSION"), calendar.get_text("CALSCALE")
    if version not in ("", "2.0"):
        raise bad(f"VERSION is {quoted(version)}; export it as iCalendar, VERSION:2.0")
    if scale not in ("", "GREGORIAN"):
        raise bad(f"CALSCALE is {quoted(scale)}; only GREGORIAN is read")


def _series(found: _Found) -> list[Series]:
    """Return the events that count, each with those that stand for occurrences of it."""
    current: dict[object, Event] = {}
    for at, event in enumerate(found.events):
        key = (event.uid, event.recurrence_id) if event.uid else at
        other = current.get(key)
        older = event if other is not None and other.sequence > event.sequence else other
        if older is not event:
            current[key] = event
        if older is not None:
            found.skip_event(older, "the file has a later version of it")
    cancelled = {
        event.uid for event in current.values() if event.uid and event.recurrence_id is None and event.reason == CANCELLED
    }
    kept = []
    for event in current.values():
        if event.uid in cancelled:
            found.skip_event(event, CANCELLED)
            continue
        kept.append(event)
        if event.reason is not None:
            found.skip_event(event, event.reason)
    return series_of(kept, found.problems)


def _zone(
    zone: str | None, objects: Sequence[Component], zones: Zones, events: Sequence[Event]
) -> tuple[str | None, dt.tzinfo | None]:
    """Return on which clock the times are shown, name and zone; None: no time needs one."""
    if zone is not None:
        return zone, zoneinfo.ZoneInfo(zone)
    used = {event.zone_key: event.tz for event in events if event.zone_key is not None}
    if not used:
        return None, None
    stated = {each.get_properties("X-WR-TIMEZONE")[0].value for each in objects if each.get_properties("X-WR-TIMEZONE")}
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
        "zone is needed: the file has times in UTC or in several zones, and does not say on which wall clock they are "
        "meant; give an IANA time zone such as Europe/Berlin"
    )
    raise InvalidInput(message, [FieldError("zone", "missing", message)])


def _expand(
    every: Sequence[Series], zone: dt.tzinfo | None, within: tuple[dt.date, dt.date], found: _Found, effort: Effort
) -> None:
    """Enter what the events come to; raises `TooMuch` before that takes long."""
    counting = [series for series in every if series.has_active_events]
    for series in counting:
        series.charge_effort(*within, effort)
    for series in counting:
        entered = set()
        for event, begin, until in series.iterate_occurrences(*within, zone, effort):
            entered.add(id(event))
            _enter(found, event.name, begin, until)
            if len(found.days) > MOST_DATES or len(found.windows) > MOST_DATES:
                raise TooMuch(f"the file has more than {MOST_DATES} days or windows")
        for event in series.events:
            if event.reason is None and id(event) not in entered:
                found.skip_event(event, f"nothing of it is from {within[0]} to {within[1]}")


def _enter(found: _Found, name: str, begin: dt.date | dt.datetime, until: dt.date | dt.datetime) -> None:
    if isinstance(begin, dt.datetime) and isinstance(until, dt.datetime):
        found.windows.add(Window(begin, until, name))
        return
    day = begin
    while day < until:
        found.days[day].append(name)
        day += _DAY
