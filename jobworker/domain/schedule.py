"""When a job that carries a schedule is due: pure functions of time.

Two kinds of rule: `{"kind": "interval", "every": seconds, "anchor": RFC 3339 or absent}` counts elapsed
time from its anchor (1970 by default); `{"kind": "cron", "expression": …}` with an IANA zone follows
the wall clock as Debian's cron does (cronsim).
"""

import datetime as dt
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cronsim

from jobworker.domain.errors import FieldError, InvalidInput

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

#: RedBeat keeps due times in whole seconds; a shorter interval cannot be kept.
SHORTEST = 1.0

#: A longer interval is a typing error, and moments that far away cannot be expressed (s).
LONGEST = 3660 * 24 * 3600.0

_LONGEST_EXPRESSION = 255


@dataclass(frozen=True, slots=True)
class Interval:
    """Every `every` seconds, counted from `anchor`."""

    every: float
    anchor: dt.datetime = _EPOCH

    def next_after(self, moment: dt.datetime) -> dt.datetime:
        """The first occurrence strictly after `moment` (aware, UTC)."""
        # timedelta counts whole microseconds; with floats the answer could be `moment` itself.
        every = dt.timedelta(seconds=self.every)
        return self.anchor + ((moment - self.anchor) // every + 1) * every

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"kind": "interval", "every": self.every, "anchor": self.anchor.isoformat()}


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression (5 fields, or 6 with seconds first) on the wall clock of `zone`."""

    expression: str
    zone: str = "UTC"

    def next_after(self, moment: dt.datetime) -> dt.datetime | None:
        """The first occurrence strictly after `moment` (aware, UTC); None if there is none within 50 years."""
        local = moment.astimezone(zoneinfo.ZoneInfo(self.zone))
        found = next(cronsim.CronSim(self.expression, local), None)
        return found.astimezone(dt.UTC) if found else None

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"kind": "cron", "expression": self.expression, "zone": self.zone}


Rule = Interval | Cron


def parse(described: Mapping[str, Any], where: str = "/schedule") -> Rule:
    """The rule that a JSON object describes; raises `InvalidInput` that names the field."""
    kind = described.get("kind")
    if kind == "interval":
        _only(described, {"kind", "every", "anchor"}, where)
        return _parse_interval(described, where)
    if kind == "cron":
        _only(described, {"kind", "expression", "zone"}, where)
        return _parse_cron(described, where)
    raise _invalid(f"{where}/kind", "not_allowed", 'kind must be "interval" or "cron"')


def _parse_interval(described: Mapping[str, Any], where: str) -> Interval:
    every = described.get("every")
    if isinstance(every, bool) or not isinstance(every, int | float) or not SHORTEST <= every <= LONGEST:
        raise _invalid(f"{where}/every", "not_allowed", "every must be a number of seconds, 1 second to 10 years")
    anchor = described.get("anchor")
    if anchor is None:
        return Interval(every)
    try:
        moment = dt.datetime.fromisoformat(anchor)
    except (TypeError, ValueError):
        raise _invalid(f"{where}/anchor", "wrong_type", "anchor must be an RFC 3339 time") from None
    if moment.tzinfo is None:
        raise _invalid(f"{where}/anchor", "naive_time", "anchor needs an offset, for example 2026-01-01T00:00:00Z")
    try:
        return Interval(every, moment.astimezone(dt.UTC))
    except OverflowError:
        raise _invalid(f"{where}/anchor", "not_allowed", "anchor is not within the years 1 to 9999 in UTC") from None


def _parse_cron(described: Mapping[str, Any], where: str) -> Cron:
    zone = described.get("zone", "UTC")
    expression = described.get("expression")
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, TypeError, ValueError):
        message = f"{zone!r} is not an IANA time zone; an example is Europe/Berlin"
        raise _invalid(f"{where}/zone", "unknown_zone", message) from None
    if not isinstance(expression, str) or len(expression) > _LONGEST_EXPRESSION:
        raise _invalid(f"{where}/expression", "wrong_type", "expression must be a string such as '0 3 * * *'")
    try:
        cronsim.CronSim(expression, _EPOCH)
    except cronsim.CronSimError as error:
        message = f"{expression!r} is not a cron expression of 5 or 6 fields: {error}"
        raise _invalid(f"{where}/expression", "bad_cron", message) from None
    return Cron(expression, zone)


def _only(described: Mapping[str, Any], allowed: set[str], where: str) -> None:
    for name in described:
        if name not in allowed:
            message = f"{name} is not a field of this rule; it has {', '.join(sorted(allowed))}"
            raise _invalid(f"{where}/{name}", "unknown_field", message)


def _invalid(pointer: str, code: str, message: str) -> InvalidInput:
    return InvalidInput(message, [FieldError(pointer, code, message)])
