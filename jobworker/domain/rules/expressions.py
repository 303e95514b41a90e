"""Rules that are written as expressions: cron (cronsim reads it) and RRULE (dateutil does), on a wall clock."""

import copy
import datetime as dt
import functools
from dataclasses import dataclass
from typing import Any

import cronsim
from dateutil import rrule

#: What cron calls by a name.
_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

#: cronsim wants a time to start from when it reads an expression.
_ANY = dt.datetime.combine(dt.date(2000, 1, 1), dt.time())

#: An RRULE with COUNT is counted through from its start, at most so far.
MOST_COUNTED = 10_000

#: Frequencies that can be skipped through: so much longer is each period.
_STEPS = {"HOURLY": dt.timedelta(hours=1), "DAILY": dt.timedelta(days=1), "WEEKLY": dt.timedelta(weeks=1)}

#: A rule that names nothing within so many years names nothing (dateutil would look through all of them).
_HORIZON_YEARS = {"HOURLY": 5, "DAILY": 50, "WEEKLY": 50}


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of 5 fields, or 6 with the seconds first; it may have `L`, `LW`, `5L`, `5#2`, or `@daily`."""

    expression: str

    def first(self, begin: dt.datetime) -> dt.datetime | None:
        """The first time from `begin` on; cronsim gives up after 50 years without one."""
        search = copy.copy(_parsed(self.expression))
        # It answers what comes after, in whole seconds.
        whole = begin.replace(microsecond=0)
        search.dt = whole if begin.microsecond else whole - dt.timedelta(seconds=1)
        return next(search, None)

    def is_frequent(self) -> bool:
        """Whether it says more than times of day: every few minutes, or every hour."""
        minute, hour = plain(self.expression).split()[-5:-3]
        return minute.startswith("*") or hour.startswith("*")

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"kind": "cron", "expression": self.expression}


@functools.lru_cache(maxsize=4096)
def _parsed(expression: str) -> cronsim.CronSim:
    return cronsim.CronSim(plain(expression), _ANY)


def plain(expression: str) -> str:
    """The fields behind a name such as `@daily`."""
    return _NAMED.get(expression.strip().lower(), expression)


@dataclass(frozen=True, slots=True)
class RRule:
    """The recurrence rule of RFC 5545, counted from `start`, a time on the wall clock."""

    expression: str
    start: dt.datetime

    def first(self, begin: dt.datetime) -> dt.datetime | None:
        """The first time from `begin` on."""
        found: dt.datetime | None = self._nearer(begin).after(begin, inc=True)
        return found

    def is_frequent(self) -> bool:
        """Whether it says more than times of day."""
        return self.part("FREQ") == "HOURLY"

    def names(self) -> set[str]:
        """What it has a part for, such as FREQ."""
        return {each.partition("=")[0] for each in self._parts()}

    def part(self, name: str) -> str:
        """What the expression says after `name=`; empty if nothing."""
        return dict(each.partition("=")[::2] for each in self._parts()).get(name, "")

    def _parts(self) -> list[str]:
        return self.expression.upper().removeprefix("RRULE:").split(";")

    def read(self) -> rrule.rrule:
        """What dateutil makes of it; raises `ValueError`."""
        found = rrule.rrulestr(self.expression, dtstart=self.start)
        if not isinstance(found, rrule.rrule):
            raise ValueError("it is more than one rule")
        return found

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"kind": "rrule", "expression": self.expression, "start": self.start.isoformat()}

    def _nearer(self, begin: dt.datetime) -> rrule.rrule:
        """The same rule, started close to `begin`: dateutil counts from the start, which may be years away."""
        rule, step = self.read(), _STEPS.get(self.part("FREQ"))
        if step is None or self.part("COUNT"):
            return rule
        period = step * int(self.part("INTERVAL") or 1)
        skipped = max(0, (begin - self.start) // period - 1)
        until = min(begin.year + _HORIZON_YEARS[self.part("FREQ")], dt.MAXYEAR)
        bounded: dict[str, Any] = {} if self.part("UNTIL") else {"until": begin.replace(year=until, month=12, day=28)}
        nearer: rrule.rrule = rule.replace(dtstart=self.start + skipped * period, **bounded)
        return nearer
