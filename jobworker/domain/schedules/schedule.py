"""Schedules: a job, the rule by which it is due, and policies for clock changes, outages and overlapping executions.

As JSON (absent fields have their defaults):

name, job               the schedule's own name, and the job that it starts
description, enabled
rule, zone              a rule of `domain.schedules.rules.rule_parser`, on the wall clock of an IANA zone ("UTC")
calendar                the calendar whose business days a `business_day` rule counts; absent: Monday to Friday
require, exclude        names of calendars: occurrences fire only within their times, or only outside them
dst                     {"gap": shift | skip, "fold": first | second | both}; absent: the default of the rule
start, end              RFC 3339; nothing is due before `start`, nor at `end` or later
max_runs                number of executions after which the schedule is exhausted
initial_delay           time after the creation in which nothing is due
run_at_start            whether the schedule is also due when it is created and whenever the system starts
jitter, spread          maximum delay of an execution: random each time, or a fixed share for the schedule
parameters, queue, priority   of its executions; absent: the job's
overlap                 policy for an occurrence while an execution of the schedule is unfinished
misfire                 {"policy": fire_once | skip | catch_up, "grace", "max"}: policy for occurrences evaluated later
                        than `grace`; `catch_up` fires the latest `max`
on_resume               policy for the occurrences of a pause when it ends: skip, fire_once or catch_up
pause_after_failures    number of consecutive failures after which the schedule is paused

Durations are seconds (or ISO 8601).
"""

import datetime as dt
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from jobworker.domain.calendars.calendars import BusinessCalendar, Calendar
from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.jobs.definition import NAME_PATTERN, QUEUE_NAME_PATTERN
from jobworker.domain.json.json_reader import JsonObjectReader, merge_problems
from jobworker.domain.schedules.rules import rule_parser
from jobworker.domain.schedules.rules.calendar_days import BusinessDayRule
from jobworker.domain.schedules.time_zone_parser import parse_dst, parse_zone
from jobworker.domain.schedules.time_zones import DstPolicy, FoldPolicy, GapPolicy
from jobworker.domain.schedules.timetable import Rule, Timetable, WallClockRule

#: Maximum grace (s) and maximum number of occurrences that `catch_up` fires.
_MAX_GRACE_SECONDS = 7 * 24 * 3600.0
MAX_CATCH_UP = 1000

_MAX_INITIAL_DELAY_SECONDS = 366 * 24 * 3600.0
_MAX_SPREAD_SECONDS = 24 * 3600.0
_MAX_CALENDARS = 20
_MAX_DESCRIPTION_LENGTH = 1000
#: Reserved name: the URL of a schedule of this name would be that of the preview.
_RESERVED_NAME = "preview"
_RESERVED_NAME_MESSAGE = "no schedule can be named preview: /api/v1/schedules/preview is an action"
_NAME_FORM = "1 to 128 of the characters A-Z a-z 0-9 _ . : -, the first a letter or a digit"

#: Fields whose values differ between JSON and `Schedule`.
_CONVERTED_FIELDS = frozenset({"rule", "require", "exclude", "dst", "start", "end", "overlap", "misfire", "on_resume"})


class OverlapPolicy(StrEnum):
    """Policy for an occurrence while an execution of the schedule is unfinished."""

    #: The occurrence is skipped.
    SKIP = "skip"
    #: One occurrence waits until the earlier executions have ended; those after it are skipped.
    QUEUE_ONE = "queue_one"
    #: The occurrence waits until the execution before it has ended.
    QUEUE_ALL = "queue_all"
    #: The occurrence runs beside the unfinished executions.
    ALLOW = "allow"
    #: The unfinished executions are cancelled, and the occurrence runs when they have ended.
    CANCEL_RUNNING = "cancel_running"


class ScheduleOwner(StrEnum):
    """Place where a schedule is edited."""

    CODE = "code"
    API = "api"
    #: In the definition of its job.
    JOB = "job"


class ScheduleState(StrEnum):
    """State of a schedule: whether it has occurrences ahead."""

    ACTIVE = "active"
    #: The schedule has ended: by its rule, its end time, or its maximum number of runs.
    EXHAUSTED = "exhausted"
    #: The schedule was declared in code, and the declaration has been removed.
    RETIRED = "retired"


class MissedOccurrencePolicy(StrEnum):
    """Policy for occurrences that were noticed late, or that a pause held up."""

    #: One execution replaces all of them.
    FIRE_ONCE = "fire_once"
    #: None of them runs.
    SKIP = "skip"
    #: The latest of them run, each with its own nominal time.
    CATCH_UP = "catch_up"


@dataclass(frozen=True, slots=True)
class MisfirePolicy:
    """Policy for occurrences that are evaluated later than `grace` (s); `max_occurrences` bounds `catch_up`."""

    policy: MissedOccurrencePolicy = MissedOccurrencePolicy.FIRE_ONCE
    grace: float = 60.0
    max_occurrences: int = 100

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"policy": self.policy.value, "grace": self.grace, "max": self.max_occurrences}


@dataclass(frozen=True, slots=True)
class Schedule:
    """The definition of a schedule; the module documents the fields."""

    name: str
    job: str
    rule: Rule
    zone: str = "UTC"
    description: str = ""
    enabled: bool = True
    calendar: str | None = None
    require: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    dst: DstPolicy | None = None
    start: dt.datetime | None = None
    end: dt.datetime | None = None
    max_runs: int | None = None
    initial_delay: float = 0.0
    run_at_start: bool = False
    jitter: float = 0.0
    spread: float = 0.0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    queue: str | None = None
    priority: int | None = None
    overlap: OverlapPolicy = OverlapPolicy.SKIP
    misfire: MisfirePolicy = MisfirePolicy()
    on_resume: MissedOccurrencePolicy = MissedOccurrencePolicy.SKIP
    pause_after_failures: int | None = None

    @property
    def calendar_names(self) -> tuple[str, ...]:
        """The names of all calendars that the schedule uses, without repetitions."""
        named = ([self.calendar] if self.calendar else []) + [*self.require, *self.exclude]
        return tuple(dict.fromkeys(named))

    def build_timetable(self, calendars: Mapping[str, Calendar]) -> Timetable:
        """Return the timetable with the calendars of these names. Raises `KeyError` if a calendar is missing."""
        rule = self.rule
        if isinstance(rule, BusinessDayRule) and self.calendar:
            counted = calendars[self.calendar]
            if not isinstance(counted, BusinessCalendar):
                raise TypeError(f"calendar {self.calendar} has no business days")
            rule = replace(rule, calendar=counted)
        require, exclude = ({name: calendars[name] for name in names} for names in (self.require, self.exclude))
        return Timetable(rule, zoneinfo.ZoneInfo(self.zone), self.dst, self.start, self.end, require, exclude)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API; `parse` accepts it."""
        return {
            "name": self.name,
            "job": self.job,
            "description": self.description,
            "enabled": self.enabled,
            "rule": self.rule.to_json(),
            "zone": self.zone,
            "calendar": self.calendar,
            "require": list(self.require),
            "exclude": list(self.exclude),
            "dst": {"gap": self.dst.gap.value, "fold": self.dst.fold.value} if self.dst else None,
            "start": self.start.isoformat() if self.start else None,
            "end": self.end.isoformat() if self.end else None,
            "max_runs": self.max_runs,
            "initial_delay": self.initial_delay,
            "run_at_start": self.run_at_start,
            "jitter": self.jitter,
            "spread": self.spread,
            "parameters": dict(self.parameters),
            "queue": self.queue,
            "priority": self.priority,
            "overlap": self.overlap.value,
            "misfire": self.misfire.to_json(),
            "on_resume": self.on_resume.value,
            "pause_after_failures": self.pause_after_failures,
        }


def parse(value: object, where: str = "") -> Schedule:
    """Return the schedule in a JSON object. Raises `InvalidInput` with every problem.

    Whether the job and the calendars exist, and the parameters fit, is checked elsewhere because it needs SQL.
    """
    read = JsonObjectReader(value, where)
    read.require("name", "job", "rule")
    values = _parse_fields(read, where)
    read.finish()
    return Schedule(**values)


def load_schedule(spec: Mapping[str, Any]) -> Schedule:
    """Create a schedule from the output of `to_json`, or from a part of it with defaults for the rest, without checks.

    `parse` takes many times as long, and thousands of schedules may be due at once.
    """
    start, end, dst, misfire = (spec.get(name) for name in ("start", "end", "dst", "misfire"))
    plain = {name: value for name, value in spec.items() if name not in _CONVERTED_FIELDS}
    return Schedule(
        rule=rule_parser.load_rule(spec["rule"]),
        require=tuple(spec.get("require", ())),
        exclude=tuple(spec.get("exclude", ())),
        dst=DstPolicy(GapPolicy(dst["gap"]), FoldPolicy(dst["fold"])) if dst else None,
        start=dt.datetime.fromisoformat(start) if start else None,
        end=dt.datetime.fromisoformat(end) if end else None,
        overlap=OverlapPolicy(spec.get("overlap", OverlapPolicy.SKIP)),
        misfire=MisfirePolicy(MissedOccurrencePolicy(misfire["policy"]), misfire["grace"], misfire["max"])
        if misfire
        else MisfirePolicy(),
        on_resume=MissedOccurrencePolicy(spec.get("on_resume", MissedOccurrencePolicy.SKIP)),
        **plain,
    )


def parse_job_schedule(job: str, value: object, where: str = "/schedule") -> Schedule:
    """Return the schedule in a job definition: a rule which may contain its `zone`. Raises `InvalidInput`.

    The schedule has the name of its job, and its executions may overlap, as those of other submissions of the job may.
    """
    fields = dict(value) if isinstance(value, Mapping) else {}
    read = JsonObjectReader({"zone": fields.pop("zone", None)}, where)
    zone = parse_zone(read)
    problems = [*read.problems]
    if job == _RESERVED_NAME:
        problems.append(
            FieldError(where, "not_allowed", f"{_RESERVED_NAME_MESSAGE}; create it by itself, with another name")
        )
    try:
        rule = rule_parser.parse(fields if isinstance(value, Mapping) else value, where)
    except InvalidInput as error:
        problems = [*error.errors, *problems]
    if problems:
        raise InvalidInput("; ".join(problem.message for problem in problems), problems)
    return Schedule(job, job, rule, zone, overlap=OverlapPolicy.ALLOW)


def to_job_json(schedule: Schedule) -> dict[str, Any]:
    """Return the schedule as JSON for the definition of its job: the inverse of `parse_job_schedule`."""
    named = {"zone": schedule.zone} if isinstance(schedule.rule, WallClockRule) else {}
    return {**schedule.rule.to_json(), **named}


def _parse_fields(reader: JsonObjectReader, where: str) -> dict[str, Any]:
    start, end = rule_parser.parse_moment(reader, "start"), rule_parser.parse_moment(reader, "end")
    if start and end and end <= start:
        reader.add_problem("end", "not_allowed", f"end must be later than start, {start.isoformat()}")
    parameters = reader.get_value("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        reader.add_problem("parameters", "wrong_type", "parameters must be a JSON object")
    rule = _parse_rule(reader, where)
    if rule is not None and not isinstance(rule, BusinessDayRule) and reader.get_value("calendar") is not None:
        message = "calendar is for business_day rules only; use require or exclude to restrict this rule to calendars"
        reader.add_problem("calendar", "not_allowed", message)
    if reader.get_value("name") == _RESERVED_NAME:
        reader.add_problem("name", "not_allowed", f"{_RESERVED_NAME_MESSAGE}; choose another name")
    return {
        "name": _get_matching_text(reader, "name", NAME_PATTERN, _NAME_FORM),
        "job": _get_matching_text(reader, "job", NAME_PATTERN, "the name of a job"),
        "rule": rule,
        "zone": parse_zone(reader),
        "description": reader.get_text("description", _MAX_DESCRIPTION_LENGTH, "")
        if reader.get_value("description")
        else "",
        "enabled": reader.get_boolean("enabled", True),
        "calendar": reader.get_text("calendar", 128),
        "require": reader.get_texts("require", 128, _MAX_CALENDARS),
        "exclude": reader.get_texts("exclude", 128, _MAX_CALENDARS),
        "dst": parse_dst(reader),
        "start": start,
        "end": end,
        "max_runs": reader.get_integer("max_runs", 1, 1_000_000_000),
        "initial_delay": reader.get_seconds("initial_delay", 0.0, _MAX_INITIAL_DELAY_SECONDS, 0.0),
        "run_at_start": reader.get_boolean("run_at_start", False),
        "jitter": reader.get_seconds("jitter", 0.0, _MAX_SPREAD_SECONDS, 0.0),
        "spread": reader.get_seconds("spread", 0.0, _MAX_SPREAD_SECONDS, 0.0),
        "parameters": parameters or {},
        "queue": _get_matching_text(reader, "queue", QUEUE_NAME_PATTERN, "the name of a queue, such as background"),
        "priority": reader.get_integer("priority", 0, 9),
        "overlap": OverlapPolicy(reader.get_choice("overlap", list(OverlapPolicy), OverlapPolicy.SKIP)),
        "misfire": _parse_misfire(reader),
        "on_resume": MissedOccurrencePolicy(
            reader.get_choice("on_resume", list(MissedOccurrencePolicy), MissedOccurrencePolicy.SKIP)
        ),
        "pause_after_failures": reader.get_integer("pause_after_failures", 1, 1000),
    }


def _parse_misfire(reader: JsonObjectReader) -> MisfirePolicy:
    value, default = reader.get_value("misfire"), MisfirePolicy()
    if value is None:
        return default
    inner = JsonObjectReader(value, f"{reader.where}/misfire")
    policy = MisfirePolicy(
        MissedOccurrencePolicy(inner.get_choice("policy", list(MissedOccurrencePolicy), default.policy)),
        inner.get_seconds("grace", 1.0, _MAX_GRACE_SECONDS, default.grace) or default.grace,
        inner.get_integer("max", 1, MAX_CATCH_UP, default.max_occurrences) or default.max_occurrences,
    )
    merge_problems(reader, inner)
    return policy


def _parse_rule(reader: JsonObjectReader, where: str) -> Rule | None:
    value = reader.get_value("rule")
    if value is None:
        return None
    try:
        return rule_parser.parse(value, f"{where}/rule")
    except InvalidInput as error:
        reader.problems.extend(error.errors)
        return None


def _get_matching_text(reader: JsonObjectReader, name: str, pattern: Any, expected: str) -> str | None:
    text = reader.get_text(name, 128)
    if text is not None and not pattern.match(text):
        reader.add_problem(name, "not_allowed", f"{name} must be {expected}")
    return text
