"""Series of iCalendar events: an event, the events that replace its occurrences, and the resulting occurrences."""

import bisect
import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jobworker.domain.calendars.icalendar.content_lines import ParsingEffort
from jobworker.domain.calendars.icalendar.events import CalendarEvent
from jobworker.domain.calendars.icalendar.values import DAY, ZERO, DateOrDateTime, EventLength


@dataclass(frozen=True, slots=True)
class EventSeries:
    """An event, the begins or days of its replaced occurrences, and the events that replace all following ones.

    `replaced` has begins on the event's own clock, or days. `following` has pairs of an occurrence and the event that
    applies from there on (RANGE=THISANDFUTURE), by time.
    """

    event: CalendarEvent
    replaced: set[dt.datetime | dt.date] = field(default_factory=set)
    following: list[tuple[dt.datetime, CalendarEvent]] = field(default_factory=list)

    @property
    def events(self) -> Sequence[CalendarEvent]:
        """The event and those that replace its following occurrences."""
        return [self.event, *(event for _, event in self.following)]

    def add_override(self, event: CalendarEvent) -> None:
        """Replace one occurrence by an event, or all from there on. Raises `ValueError`."""
        assert event.recurrence_id is not None, "it is one occurrence"
        if not isinstance(event.recurrence_id, dt.datetime) and not self.event.all_day:
            if event.applies_to_following:
                raise ValueError("RECURRENCE-ID is a day and the event it belongs to has times; write the time, too")
            self.replaced.add(event.recurrence_id)
            return
        at = self.event.convert_to_event_clock(event.recurrence_id, "RECURRENCE-ID")
        if event.applies_to_following:
            bisect.insort(self.following, (at, event), key=lambda pair: pair[0])
        else:
            self.replaced.add(at)

    @property
    def has_active_events(self) -> bool:
        """True if any of the events adds time."""
        return any(event.reason is None for event in self.events)

    def charge_effort(self, first: dt.date, end: dt.date, effort: ParsingEffort) -> None:
        """Add the cost of evaluating the rules for the days from `first` up to `end`."""
        for rule in (*self.event.rules, *self.event.exclusion_rules):
            rule.charge_effort(self.event.start, *self._compute_search_range(first, end), effort)

    def iterate_occurrences(
        self, first: dt.date, end: dt.date, zone: dt.tzinfo | None, effort: ParsingEffort
    ) -> Iterator[tuple[CalendarEvent, DateOrDateTime, DateOrDateTime]]:
        """Yield event, begin and end of each occurrence on the days from `first` up to `end`.

        Begin and end are days, or times in `zone`.
        """
        after, before = self._compute_search_range(first, end)
        within = (_to_midnight(first), _to_midnight(end))
        # An override stands for an occurrence, also where the rules have none.
        begins = {**{at: None for at, _ in self.following}, **self.event.compute_begins(after, before, effort)}
        for begin in sorted(begin for begin in begins if after <= begin <= before):
            event, moved = self._find_effective_event(begin)
            if event.reason is None and self.replaced.isdisjoint((begin, begin.date(), moved)):
                yield from _clip_occurrence(event, moved, begins[begin] or event.length, within, zone, effort)

    def _compute_search_range(self, first: dt.date, end: dt.date) -> tuple[dt.datetime, dt.datetime]:
        """Return the range of begins of the occurrences that may be on these days."""
        lengths = [event.length for event in self.events] + [
            length for length in self.event.added_begins.values() if length
        ]
        shifts = [ZERO, *(event.start - at for at, event in self.following)]
        # Clocks differ by little more than a day; `_clip_occurrence` cuts off the excess.
        after = _to_midnight(first) - max(length.sum for length in lengths) - max(shifts) - 2 * DAY
        return after, _to_midnight(end) - min(shifts) + 2 * DAY

    def _find_effective_event(self, begin: dt.datetime) -> tuple[CalendarEvent, dt.datetime]:
        """Return the event that determines an occurrence's time and length, and the resulting begin."""
        place = bisect.bisect_right(self.following, begin, key=lambda pair: pair[0])
        if place == 0:
            return self.event, begin
        at, event = self.following[place - 1]
        return event, begin + (event.start - at)


def build_series(events: Sequence[CalendarEvent], problems: list[str]) -> list[EventSeries]:
    """Return the series of the events. Adds the problems of events without a valid place to `problems`."""
    repeating = {event.uid: EventSeries(event) for event in events if event.uid and event.recurrence_id is None}
    all_series = []
    for event in events:
        series = repeating.get(event.uid) if event.uid else None
        if event.recurrence_id is None:
            all_series.append(series or EventSeries(event))
            continue
        try:
            if series is not None:
                series.add_override(event)
            elif event.applies_to_following:
                raise ValueError("RANGE=THISANDFUTURE needs the event that repeats, with the same UID, in the file")
        except ValueError as error:
            problems.append(f"{event.title}: {error}")
        if not event.applies_to_following:
            all_series.append(EventSeries(event))
    return all_series


def _to_midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time())


def _clip_occurrence(
    event: CalendarEvent,
    begin: dt.datetime,
    length: EventLength,
    bounds: tuple[dt.datetime, dt.datetime],
    zone: dt.tzinfo | None,
    effort: ParsingEffort,
) -> Iterator[tuple[CalendarEvent, DateOrDateTime, DateOrDateTime]]:
    shown, until = event.convert_to_zone(begin, length, zone)
    if until <= shown:
        # Clocks were set back meanwhile: the occurrence must not get lost on a clock that shows an hour twice.
        until = shown + length.sum
    shown, until = max(shown, bounds[0]), min(until, bounds[1])
    if shown < until:
        # A long event that repeats every day adds the days of its overlap again and again.
        effort.spend(0, (until - shown).days)
        yield (event, shown.date(), until.date()) if event.all_day else (event, shown, until)
