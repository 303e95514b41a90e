"""How a schedule looks in Redis: RedBeat's hash and sorted set, with what `domain.schedules.schedule` says about when it is due.

Free of Celery, so that whoever writes the schedule need not load it.
"""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

#: What RedBeat puts before its keys unless `redbeat_key_prefix` says otherwise. Ours does not.
KEY_PREFIX = "redbeat:"

#: sorted set: key of an entry → its next nominal time, as seconds since 1970 (UTC, with a fraction).
SCHEDULE_KEY = KEY_PREFIX + ":schedule"

#: Field of an entry's hash that holds `encode(...)`.
DEFINITION_FIELD = "definition"

#: The `__type__` under which RedBeat's JSON carries a rule of ours.
RULE_TYPE = "jobworker.rule"

#: What of a schedule's JSON says when it is due.
_TIMETABLE_FIELDS = ("rule", "zone", "dst", "start", "end")

_encode_sorted = json.JSONEncoder(sort_keys=True).encode
_encode = json.JSONEncoder(separators=(",", ":")).encode

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def build_entry_key(schedule_id: str) -> str:
    """The Redis key of a schedule's entry."""
    return KEY_PREFIX + schedule_id


def list_calendars(spec: Mapping[str, Any]) -> list[str]:
    """The names of the calendars without which nobody could say when this schedule is due."""
    return [name for field in _calendar_fields(spec) for name in _to_list(spec.get(field))]


def encode_definition(
    schedule_id: str, spec: Mapping[str, Any], calendar_specs: Mapping[str, Any] | None = None
) -> str:
    """An entry's definition as RedBeat stores it, from a schedule's JSON and that of its `calendars` by name."""
    fields = (*_TIMETABLE_FIELDS, *_calendar_fields(spec))
    timetable = {name: spec[name] for name in fields if spec.get(name) is not None}
    needed = {name: calendar_specs[name] for name in list_calendars(spec) if calendar_specs and name in calendar_specs}
    if needed:
        timetable["calendars"] = needed
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
    """Where they are named: what calendars forbid takes no nominal time away, but a business day rolls out of it."""
    rule = spec["rule"]
    if rule.get("kind") != "business_day":
        return ()
    return ("calendar", "require", "exclude") if rule.get("roll") else ("calendar",)


def _to_list(named: str | Sequence[str] | None) -> Sequence[str]:
    return [named] if isinstance(named, str) else named or ()


def to_score(moment: dt.datetime) -> str:
    """A nominal time as a score; a double keeps microseconds until the year 2242."""
    return repr((moment - _EPOCH).total_seconds())


def from_score(score: str | bytes) -> dt.datetime:
    """The inverse of `to_score`; raises `OverflowError` or `ValueError` for what is no time."""
    return _EPOCH + dt.timedelta(microseconds=round(float(score) * 1_000_000))


def encode_due_event(schedule_id: str, nominal: dt.datetime) -> str:
    """The data of the event which says that a schedule is due."""
    return _encode({"schedule": schedule_id, "at": nominal.isoformat()})
