"""Format of a schedule in Redis: RedBeat's hash and sorted set, with a rule as in `domain.schedules.schedule`.

Independent of Celery, so that a process that writes schedules need not load Celery.
"""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

#: RedBeat's key prefix unless `redbeat_key_prefix` sets another one, which JobWorker does not.
KEY_PREFIX = "redbeat:"

#: sorted set: key of an entry → its next nominal time, as seconds since 1970 (UTC, with a fraction).
SCHEDULE_KEY = KEY_PREFIX + ":schedule"

#: Field of an entry's hash with the result of `encode_definition`.
DEFINITION_FIELD = "definition"

#: The `__type__` of JobWorker's rules in RedBeat's JSON.
RULE_TYPE = "jobworker.rule"

#: Fields of a schedule's JSON that determine when it is due.
_TIMETABLE_FIELDS = ("rule", "zone", "dst", "start", "end")

_encode_sorted = json.JSONEncoder(sort_keys=True).encode
_encode = json.JSONEncoder(separators=(",", ":")).encode

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def build_entry_key(schedule_id: str) -> str:
    """Return the Redis key of a schedule's entry."""
    return KEY_PREFIX + schedule_id


def list_calendars(spec: Mapping[str, Any]) -> list[str]:
    """Return the names of the calendars that determine when this schedule is due."""
    return [name for field in _calendar_fields(spec) for name in _to_list(spec.get(field))]


def encode_definition(
    schedule_id: str, spec: Mapping[str, Any], calendar_specs: Mapping[str, Any] | None = None
) -> str:
    """Return an entry's definition as RedBeat stores it, from a schedule's JSON and that of its calendars by name."""
    fields = (*_TIMETABLE_FIELDS, *_calendar_fields(spec))
    timetable = {name: spec[name] for name in fields if spec.get(name) is not None}
    calendars = {
        name: calendar_specs[name] for name in list_calendars(spec) if calendar_specs and name in calendar_specs
    }
    if calendars:
        timetable["calendars"] = calendars
    definition = {
        "name": schedule_id,
        "task": spec["job"],
        "args": [],
        "kwargs": {},
        "options": {},
        "schedule": {"__type__": RULE_TYPE, "rule": timetable},
        "enabled": True,
    }
    return _encode_sorted(definition)


def _calendar_fields(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields that name these calendars.

    Dates that a calendar excludes still have nominal times, but a business day rule rolls out of such dates.
    """
    rule = spec["rule"]
    if rule.get("kind") != "business_day":
        return ()
    return ("calendar", "require", "exclude") if rule.get("roll") else ("calendar",)


def _to_list(named: str | Sequence[str] | None) -> Sequence[str]:
    return [named] if isinstance(named, str) else named or ()


def to_score(moment: dt.datetime) -> str:
    """Return a nominal time as a score; a double keeps microseconds until the year 2242."""
    return repr((moment - _EPOCH).total_seconds())


def from_score(score: str | bytes) -> dt.datetime:
    """Return the inverse of `to_score`; raises `OverflowError` or `ValueError` for a score that is not a time."""
    return _EPOCH + dt.timedelta(microseconds=round(float(score) * 1_000_000))


def encode_due_event(schedule_id: str, nominal: dt.datetime) -> str:
    """Return the data of the event that reports a schedule as due."""
    return _encode({"schedule": schedule_id, "at": nominal.isoformat()})
