"""A schedule: a job, the rule by which it is due, and what holds when clocks, outages and long runs get in the way.

As JSON (what is absent has its default):

name, job               the schedule's own name, and the job that it starts
description, enabled
rule, zone              a rule of `domain.schedules.rules.reading`, on the wall clock of an IANA zone ("UTC")
calendar                by whose business days a `business_day` rule counts; none: Monday to Friday
require, exclude        names of calendars whose times it is kept to, and kept away from
dst                     {"gap": shift | skip, "fold": first | second | both}; absent: as people mean the rule
start, end              RFC 3339; nothing is due before `start`, nor at `end` or later
max_runs                after so many executions it is exhausted
initial_delay           nothing is due so soon after it was created
run_at_start            whether it is due, too, when it is created and whenever the system starts
jitter, spread          an execution starts up to so much later: by chance each time, or always by the same share
parameters, queue, priority   of its executions; absent: the job's
overlap                 what becomes of an occurrence while an execution of the schedule is unfinished
misfire                 {"policy": fire_once | skip | catch_up, "grace", "max"}: what becomes of occurrences that nobody
                        noticed for longer than `grace`; `catch_up` makes up for the latest `max`
on_resume               what becomes of the occurrences of a pause when it ends: skip, fire_once or catch_up
pause_after_failures    after so many failures in a row it is paused

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
from jobworker.domain.json.json_reader import JsonObjectReader
from jobworker.domain.schedules.rules import rule_parser
from jobworker.domain.schedules.rules.calendar_days import BusinessDayRule
from jobworker.domain.schedules.time_zones import DstPolicy, FoldPolicy, GapPolicy, get_zone_names, suggest_zone
from jobworker.domain.schedules.timetable import Rule, Timetable, WallClockRule

#: A grace of more than a week is no grace, and more occurrences than that cannot be made up for (s, occurrences).
_MAX_GRACE_SECONDS = 7 * 24 * 3600.0
MAX_CATCH_UP = 1000

_MAX_INITIAL_DELAY_SECONDS = 366 * 24 * 3600.0
_MAX_SPREAD_SECONDS = 24 * 3600.0
_MAX_CALENDARS = 20
_MAX_DESCRIPTION_LENGTH = 1000
#: A schedule of this name could not be read at its URL.
_RESERVED_NAME = "preview"
_RESERVED_NAME_MESSAGE = "no schedule can be named preview: /api/v1/schedules/preview is an action"
_NAME_FORM = "1 to 128 of the characters A-Z a-z 0-9 _ . : -, the first a letter or a digit"

#: Fields that are not in JSON what they are here.
_CONVERTED_FIELDS = frozenset({"rule", "require", "exclude", "dst", "start", "end", "overlap", "misfire", "on_resume"})


class OverlapPolicy(StrEnum):
    """What becomes of an occurrence while an execution of the schedule is unfinished."""

    #: It is left out.
    SKIP = "skip"
    #: One waits until the others have ended; those behind it are left out.
    QUEUE_ONE = "queue_one"
    #: It waits until the one before it has ended.
    QUEUE_ALL = "queue_all"
    #: It runs beside them.
    ALLOW = "allow"
    #: The others are cancelled, and it runs when they have ended.
    CANCEL_RUNNING = "cancel_running"


class ScheduleOwner(StrEnum):
    """Where a schedule is edited."""

    CODE = "code"
    API = "api"
    #: In the definition of its job.
    JOB = "job"


class ScheduleState(StrEnum):
    """Whether anything is ahead of a schedule."""

    ACTIVE = "active"
    #: It has come to its end: of its rule, of its time, or of its runs.
    EXHAUSTED = "exhausted"
    #: It was declared in code, and is not any more.
    RETIRED = "retired"


class MissedOccurrencePolicy(StrEnum):
    """What becomes of occurrences that nobody noticed in time, or that a pause held up."""

    #: One execution stands for all of them.
    FIRE_ONCE = "fire_once"
    #: None of them runs.
    SKIP = "skip"
    #: The latest of them run, each with its own nominal time.
    CATCH_UP = "catch_up"


@dataclass(frozen=True, slots=True)
class MisfirePolicy:
    """What holds for occurrences that are later than `grace` (s) when they are noticed; `most` bounds `catch_up`."""

    policy: MissedOccurrencePolicy = MissedOccurrencePolicy.FIRE_ONCE
    grace: float = 60.0
    max_occurrences: int = 100

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"policy": self.policy.value, "grace": self.grace, "max": self.max_occurrences}


@dataclass(frozen=True, slots=True)
class Schedule:
    """What somebody decided; the module says what each field means."""

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
        """Every calendar that it names, each once."""
        named = ([self.calendar] if self.calendar else []) + [*self.require, *self.exclude]
        return tuple(dict.fromkeys(named))

    def build_timetable(self, calendars: Mapping[str, Calendar]) -> Timetable:
        """When it is due, with the calendars of these names; raises `KeyError` if one is missing."""
        rule = self.rule
        if isinstance(rule, BusinessDayRule) and self.calendar:
            counted = calendars[self.calendar]
            if not isinstance(counted, BusinessCalendar):
                raise TypeError(f"calendar {self.calendar} has no business days")
            rule = replace(rule, calendar=counted)
        require, exclude = ({name: calendars[name] for name in names} for names in (self.require, self.exclude))
        return Timetable(rule, zoneinfo.ZoneInfo(self.zone), self.dst, self.start, self.end, require, exclude)

    def to_json(self) -> dict[str, Any]:
        """As stored and shown; `parse` reads it."""
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
    """The schedule that a JSON object describes; raises `InvalidInput` with every problem.

    Whether the job and the calendars exist, and the parameters fit, only SQL can tell.
    """
    read = JsonObjectReader(value, where)
    read.require("name", "job", "rule")
    values = _parse_fields(read, where)
    read.finish()
    return Schedule(**values)


def load_schedule(spec: Mapping[str, Any]) -> Schedule:
    """What `to_json` wrote, or a part of it with the rest as by default; it is not checked again.

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
    """The schedule that a definition carries: a rule which may name its `zone` itself; raises `InvalidInput`.

    It has the name of its job, and its executions run beside each other, as those of other calls of the job do.
    """
    fields = dict(value) if isinstance(value, Mapping) else {}
    read = JsonObjectReader({"zone": fields.pop("zone", None)}, where)
    found = parse_zone(read)
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
    return Schedule(job, job, rule, found, overlap=OverlapPolicy.ALLOW)


def to_job_json(schedule: Schedule) -> dict[str, Any]:
    """As the definition of its job shows it: the inverse of `of_job`."""
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
        message = "only a business_day rule counts by a calendar; this one is kept to it by require, away by exclude"
        reader.add_problem("calendar", "not_allowed", message)
    if reader.get_value("name") == _RESERVED_NAME:
        reader.add_problem("name", "not_allowed", f"{_RESERVED_NAME_MESSAGE}; take another name")
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


def parse_zone(reader: JsonObjectReader) -> str:
    """The field `zone` of whatever has one."""
    name = reader.get_text("zone", 64, "UTC") or "UTC"
    if name not in get_zone_names():
        reader.add_problem("zone", "unknown_zone", f"{name!r} is not an IANA time zone; {suggest_zone(name)}")
    return name


def parse_dst(reader: JsonObjectReader) -> DstPolicy | None:
    """The field `dst` of whatever has one."""
    given = reader.get_value("dst")
    if given is None:
        return None
    inner = JsonObjectReader(given, f"{reader.where}/dst")
    gap = GapPolicy(inner.get_choice("gap", list(GapPolicy), GapPolicy.SHIFT))
    found = DstPolicy(gap, FoldPolicy(inner.get_choice("fold", list(FoldPolicy), FoldPolicy.FIRST)))
    _merge_problems(reader, inner)
    return found


def _parse_misfire(reader: JsonObjectReader) -> MisfirePolicy:
    given, default = reader.get_value("misfire"), MisfirePolicy()
    if given is None:
        return default
    inner = JsonObjectReader(given, f"{reader.where}/misfire")
    found = MisfirePolicy(
        MissedOccurrencePolicy(inner.get_choice("policy", list(MissedOccurrencePolicy), default.policy)),
        inner.get_seconds("grace", 1.0, _MAX_GRACE_SECONDS, default.grace) or default.grace,
        inner.get_integer("max", 1, MAX_CATCH_UP, default.max_occurrences) or default.max_occurrences,
    )
    _merge_problems(reader, inner)
    return found


def _parse_rule(reader: JsonObjectReader, where: str) -> Rule | None:
    given = reader.get_value("rule")
    if given is None:
        return None
    try:
        return rule_parser.parse(given, f"{where}/rule")
    except InvalidInput as error:
        reader.problems.extend(error.errors)
        return None


def _get_matching_text(reader: JsonObjectReader, name: str, pattern: Any, expected: str) -> str | None:
    found = reader.get_text(name, 128)
    if found is not None and not pattern.match(found):
        reader.add_problem(name, "not_allowed", f"{name} must be {expected}")
    return found


def _merge_problems(reader: JsonObjectReader, inner: JsonObjectReader) -> None:
    try:
        inner.finish()
    except InvalidInput as error:
        reader.problems.extend(error.errors)
