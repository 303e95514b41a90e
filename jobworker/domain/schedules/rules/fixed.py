"""Rules about moments in time, whatever clocks show: once, and intervals."""

import datetime as dt
from dataclasses import dataclass
from typing import Any

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class OnceRule:
    """A single moment."""

    at: dt.datetime

    def find_next(self, moment: dt.datetime) -> dt.datetime | None:
        """`at`, while it is ahead."""
        return self.at if self.at > moment else None

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"kind": "once", "at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class IntervalRule:
    """Every `every` seconds, counted from `anchor`, in both directions."""

    every: float
    anchor: dt.datetime = EPOCH

    def find_next(self, moment: dt.datetime) -> dt.datetime | None:
        """The first occurrence strictly after `moment` (aware, UTC); None: it would lie behind the year 9999."""
        # timedelta counts whole microseconds; with floats the answer could be `moment` itself.
        every = dt.timedelta(seconds=self.every)
        try:
            return self.anchor + ((moment - self.anchor) // every + 1) * every
        except OverflowError:
            return None

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"kind": "interval", "every": self.every, "anchor": self.anchor.isoformat()}
