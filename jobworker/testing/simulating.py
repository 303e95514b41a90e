"""What the fixture `simulate_schedules` hands out."""

import datetime as dt
import zoneinfo
from collections.abc import Collection, Mapping

from jobworker.declare import schedules as declarations
from jobworker.declare.schedules import Declarations
from jobworker.domain import outages
from jobworker.domain.errors import InvalidInput, Misconfigured
from jobworker.domain.outages import Outage
from jobworker.services import simulation
from jobworker.services.simulation import Question, Simulated
from jobworker.settings import Settings

Moment = str | dt.date

#: `"01:00-04:00"` or `("01:00", "04:00")` is each day, `("2026-03-28", "2026-03-29T12:00")` is once.
Span = str | tuple[Moment, Moment]


class Simulator:
    """Runs the schedules of a package on virtual time."""

    def __call__(
        self,
        begin: Moment,
        end: Moment,
        *,
        names: Collection[str] | None = None,
        outage: Span | list[Span] | None = None,
        duration: float | Mapping[str, float] = 0.0,
        zone: str = "UTC",
        limit: int = 10_000,
    ) -> list[Simulated]:
        """What would become of each occurrence in [begin, end), by nominal time.

        Dates and times without an offset are those of `zone`. `names` chooses schedules. `outage` is a span, or a list
        of them, in which nobody looks. `duration` (s) is how long executions take, or of which schedule how long.
        Raises `Misconfigured` if the package cannot be read, `InvalidInput` if a time cannot, if a calendar is missing,
        or if there are more than `limit` occurrences.
        """
        spans = outage if isinstance(outage, list) else [outage] if outage else []
        question = _question(begin, end, spans, zoneinfo.ZoneInfo(zone), duration, limit)
        story = simulation.of_code(_read(Settings.from_environment().schedules), question, names)
        if story.stopped_at is not None:
            raise InvalidInput(
                f"more than {limit} occurrences until {story.stopped_at}: name a shorter time, or a limit"
            )
        return list(story.occurrences)


def _read(package: str) -> Declarations:
    """What the package declares."""
    found = declarations.read(package)
    if found.broken_modules:
        raise Misconfigured("\n".join(broken.traceback for broken in found.broken_modules))
    return found


def _question(
    begin: Moment,
    end: Moment,
    spans: Collection[Span],
    zone: zoneinfo.ZoneInfo,
    duration: float | Mapping[str, float],
    limit: int,
) -> Question:
    try:
        first, last = outages.moment(begin, zone), outages.moment(end, zone)
        found = [outage for each in spans for outage in _outages(each, first, last, zone)]
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    takes = duration if isinstance(duration, Mapping) else {}
    return Question(first, last, found, 0.0 if isinstance(duration, Mapping) else duration, takes, limit)


def _outages(span: Span, begin: dt.datetime, end: dt.datetime, zone: zoneinfo.ZoneInfo) -> list[Outage]:
    if isinstance(span, str):
        return outages.parse(span, begin, end, zone)
    first, last = span
    if isinstance(first, str) and isinstance(last, str) and outages.is_time_of_day(first):
        return outages.parse(f"{first}-{last}", begin, end, zone)
    return [outages.span(outages.moment(first, zone), outages.moment(last, zone))]
