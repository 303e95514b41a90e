"""Rules that name moments in time, independent of clocks: once, and intervals."""

import datetime as dt
from dataclasses import dataclass
from typing import Any

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class OnceRule:
    """A rule that is due at a single moment."""

    at: dt.datetime

    def find_next(self, moment: dt.datetime) -> dt.datetime | None:
        """Return `at` if it is after `moment`."""
        return self.at if self.at > moment else None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"kind": "once", "at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class IntervalRule:
    """A rule that is due every `every` seconds, counted from `anchor`, in both directions."""

    every: float
    anchor: dt.datetime = EPOCH

    def find_next(self, moment: dt.datetime) -> dt.datetime | None:
        """Return the first occurrence strictly after `moment` (aware, UTC); None: it would be after the year 9999."""
        # timedelta counts whole microseconds; with floats the result could be `moment` itself.
        every = dt.timedelta(seconds=self.every)
        try:
            return self.anchor + ((moment - self.anchor) // every + 1) * every
        except OverflowError:
            return None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"kind": "interval", "every": self.every, "anchor": self.anchor.isoformat()}
