"""Schedules and calendars in code: `schedule("nightly", job="clean", rule=daily("02:00"), zone="Europe/Berlin")`.

A declaration is checked where it stands, and does nothing else: while a package is read (`collecting`) it is noted
with its place, otherwise the value is just handed back. What is declared takes effect when the relay starts.
"""

import contextlib
import contextvars
import datetime as dt
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Required, TypedDict, TypeVar, Unpack

from jobworker import loading
from jobworker.declare.rules import Duration, Moment, plain
from jobworker.domain import calendar_reading, json_values
from jobworker.domain import schedule as schedules
from jobworker.domain.calendars import Calendar
from jobworker.domain.errors import FieldError, InvalidInput, Misconfigured
from jobworker.domain.job import NAME
from jobworker.domain.schedule import Schedule
from jobworker.loading import Broken

_Value = TypeVar("_Value")


class Misfire(TypedDict, total=False):
    """What becomes of occurrences that nobody noticed in time."""

    policy: str
    grace: Duration
    max: int


class Dst(TypedDict, total=False):
    """What holds when the clocks change."""

    gap: str
    fold: str


class ScheduleFields(TypedDict, total=False):
    """What a schedule may say; `domain.schedule` explains each."""

    job: Required[str]
    rule: Required[Mapping[str, Any]]
    zone: str
    description: str
    enabled: bool
    calendar: str
    require: Sequence[str]
    exclude: Sequence[str]
    dst: Dst
    start: Moment
    end: Moment
    max_runs: int
    initial_delay: Duration
    run_at_start: bool
    jitter: Duration
    spread: Duration
    parameters: Mapping[str, Any]
    queue: str
    priority: int
    overlap: str
    misfire: Misfire
    on_resume: str
    pause_after_failures: int


class CalendarFields(TypedDict, total=False):
    """What a calendar may say; `domain.calendar_reading` explains each.

    `country` (and `subdivision`) is short for the holidays of one country.
    """

    kind: str
    description: str
    country: str
    subdivision: str
    holidays: Sequence[Mapping[str, str]]
    weekend: Sequence[str]
    hours: Mapping[str, Sequence[str]]
    closed: Mapping[str | dt.date, str] | Sequence[str | dt.date]
    opened: Sequence[str | dt.date]
    days: Mapping[str | dt.date, str] | Sequence[str | dt.date]
    windows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Declared(Generic[_Value]):
    """What was declared, and where: `schedules/nightly.py:12`."""

    value: _Value
    place: str


@dataclass(slots=True)
class Declarations:
    """Everything that a package declares, by name."""

    schedules: dict[str, Declared[Schedule]] = field(default_factory=dict)
    calendars: dict[str, Declared[Calendar]] = field(default_factory=dict)
    #: Modules that did not import: what they would have declared is not known.
    broken_modules: list[Broken] = field(default_factory=list)


def read(package: str) -> Declarations:
    """What the modules of this package declare; raises `Misconfigured` if there is no such package."""
    with collecting() as found:
        found.broken_modules = loading.load_anew(package, "schedules", "JOBWORKER_SCHEDULES")
    return found


_collected: contextvars.ContextVar[Declarations | None] = contextvars.ContextVar("declarations", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[Declarations]:
    """Note what is declared while the block runs."""
    found = Declarations()
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def schedule(name: str, **fields: Unpack[ScheduleFields]) -> Schedule:
    """Declare a schedule; raises `Misconfigured` with its place and everything that is wrong.

    The fields are those of the API: `job` and `rule` have to be there. Times and durations may be those of `datetime`.
    """
    place = _place()
    given = {"name": name, **{key: plain(value) for key, value in fields.items() if value is not None}}
    try:
        _require_json(given.get("parameters"))
        _require_rule(given.get("rule"))
        made = schedules.parse(given)
    except InvalidInput as error:
        raise _refused("schedule", name, place, error) from None
    into = _collected.get()
    if into is not None:
        _note(into.schedules, "schedule", name, Declared(made, place))
    return made


def calendar(name: str, **fields: Unpack[CalendarFields]) -> Calendar:
    """Declare a calendar: `calendar("DE", country="DE")` has the business days of Germany.

    The fields are those of the API, `kind` is business unless it says dates. Raises `Misconfigured` like `schedule`.
    """
    place = _place()
    given: dict[str, Any] = {"kind": "business", **{key: plain(value) for key, value in fields.items()}}
    try:
        if not NAME.match(str(name)):
            message = "name must be 1 to 128 of the characters A-Z a-z 0-9 _ . : -, the first a letter or a digit"
            raise InvalidInput(message, [FieldError("/name", "not_allowed", message)])
        made = calendar_reading.parse(_with_country(given))
    except InvalidInput as error:
        raise _refused("calendar", name, place, error) from None
    into = _collected.get()
    if into is not None:
        _note(into.calendars, "calendar", name, Declared(made, place))
    return made


def _with_country(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of the API: `country` stands for one entry of `holidays`."""
    place = {key: given.pop(key) for key in ("country", "subdivision") if key in given}
    return {**given, "holidays": [place, *given.get("holidays", ())]} if place else given


def _require_json(parameters: Any) -> None:
    """Over HTTP nothing else can come; from Python anything can."""
    try:
        json.dumps(parameters, allow_nan=False)
        json_values.check(parameters)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"parameters cannot be kept as JSON: {error}"
        raise InvalidInput(message, [FieldError("/parameters", "not_allowed", message)]) from None


def _require_rule(rule: Any) -> None:
    """Who writes `rule="0 3 * * *"` means the function of that kind."""
    if isinstance(rule, str):
        message = f"rule is what a function makes: cron({rule!r}), or daily, weekly, monthly, every, once, rrule, …"
        raise InvalidInput(message, [FieldError("/rule", "wrong_type", message)])


def _note(known: dict[str, Declared[_Value]], what: str, name: str, declared: Declared[_Value]) -> None:
    other = known.get(name)
    if other is None:
        known[name] = declared
        return
    if other.place == declared.place:
        why = "is declared twice by the same line: declare it where the module runs once"
    else:
        why = f"is declared already, at {other.place}"
    raise Misconfigured(f"{declared.place}: {what} {name} {why}")


def _refused(what: str, name: object, place: str, error: InvalidInput) -> Misconfigured:
    told = "; ".join(f"{problem.pointer}: {problem.message}" for problem in error.errors)
    return Misconfigured(f"{place}: {what} {name!r}: {told}")


def _place() -> str:
    """The file and the line of whoever called the function that asks."""
    caller = sys._getframe(2)
    file = Path(caller.f_code.co_filename)
    with contextlib.suppress(ValueError):
        file = file.relative_to(Path.cwd())
    return f"{file}:{caller.f_lineno}"
