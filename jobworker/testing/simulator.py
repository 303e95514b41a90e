"""The simulator of the fixture `simulate_schedules`."""

import datetime as dt
import zoneinfo
from collections.abc import Collection, Mapping

from jobworker.declare import declarations
from jobworker.declare.declarations import Declarations
from jobworker.domain.errors import ConfigurationError, InvalidInput
from jobworker.domain.schedules import time_windows
from jobworker.domain.schedules.time_windows import Outage
from jobworker.services.schedules import simulation
from jobworker.services.schedules.simulation import SimulatedOccurrence, SimulationOptions
from jobworker.settings import Settings

SimulationTime = str | dt.date

#: Span of an outage: `"01:00-04:00"` or `("01:00", "04:00")` is daily, `("2026-03-28", "2026-03-29T12:00")` is once.
OutageSpan = str | tuple[SimulationTime, SimulationTime]


class Simulator:
    """A simulator of a package's schedules on virtual time."""

    def __call__(
        self,
        begin: SimulationTime,
        end: SimulationTime,
        *,
        names: Collection[str] | None = None,
        outage: OutageSpan | list[OutageSpan] | None = None,
        duration: float | Mapping[str, float] = 0.0,
        zone: str = "UTC",
        limit: int = 10_000,
    ) -> list[SimulatedOccurrence]:
        """Return the outcome of each occurrence in [begin, end), by nominal time.

        Dates and times without an offset are those of `zone`. `names` selects schedules. `outage` is a span, or a list
        of spans, in which schedules are not evaluated. `duration` (s) is how long executions take, for all schedules or
        by schedule. Raises `ConfigurationError` if the package cannot be read, and `InvalidInput` if a time is invalid,
        if a calendar is missing, or if there are more than `limit` occurrences.
        """
        outage_spans = outage if isinstance(outage, list) else [outage] if outage else []
        question = _make_question(begin, end, outage_spans, zoneinfo.ZoneInfo(zone), duration, limit)
        result = simulation.simulate_code(_load_declarations(Settings.from_environment().schedules), question, names)
        if result.stopped_at is not None:
            raise InvalidInput(
                f"more than {limit} occurrences until {result.stopped_at}: name a shorter time, or a limit"
            )
        return list(result.occurrences)


def _load_declarations(package: str) -> Declarations:
    """Return the declarations of the package; raises `ConfigurationError` if a module is broken."""
    result = declarations.load_declarations(package)
    if result.broken_modules:
        raise ConfigurationError("\n".join(broken.traceback for broken in result.broken_modules))
    return result


def _make_question(
    begin: SimulationTime,
    end: SimulationTime,
    spans: Collection[OutageSpan],
    zone: zoneinfo.ZoneInfo,
    duration: float | Mapping[str, float],
    limit: int,
) -> SimulationOptions:
    try:
        first, last = time_windows.parse_moment(begin, zone), time_windows.parse_moment(end, zone)
        parsed_outages = [outage for span in spans for outage in _parse_outages(span, first, last, zone)]
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    durations = duration if isinstance(duration, Mapping) else {}
    return SimulationOptions(
        first, last, parsed_outages, 0.0 if isinstance(duration, Mapping) else duration, durations, limit
    )


def _parse_outages(span: OutageSpan, begin: dt.datetime, end: dt.datetime, zone: zoneinfo.ZoneInfo) -> list[Outage]:
    if isinstance(span, str):
        return time_windows.parse_outages(span, begin, end, zone)
    first, last = span
    if isinstance(first, str) and isinstance(last, str) and time_windows.is_time_of_day(first):
        return time_windows.parse_outages(f"{first}-{last}", begin, end, zone)
    return [time_windows.create_outage(time_windows.parse_moment(first, zone), time_windows.parse_moment(last, zone))]
