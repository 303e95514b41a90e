"""Schedules and calendars in code: `schedule("nightly", job="clean", rule=daily("02:00"), zone="Europe/Berlin")`.

A declaration is checked where it is written. While a package is loaded (`collect_declarations`), the declaration is
recorded with its file and line; otherwise the function only returns its value. The relay applies recorded declarations
when it starts.
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
from jobworker.declare.rules import DateTimeLike, DurationLike, to_json_value
from jobworker.domain.calendars import calendar_parser
from jobworker.domain.calendars.calendars import Calendar
from jobworker.domain.errors import ConfigurationError, FieldError, InvalidInput
from jobworker.domain.jobs.definition import NAME_PATTERN
from jobworker.domain.json import json_values
from jobworker.domain.schedules import schedule as schedules
from jobworker.domain.schedules.schedule import Schedule
from jobworker.loading import BrokenModule

_Value = TypeVar("_Value")


class MisfireFields(TypedDict, total=False):
    """The policy for occurrences that were evaluated too late (misfires)."""

    policy: str
    grace: DurationLike
    max: int


class DstFields(TypedDict, total=False):
    """The policy for local times that do not exist or exist twice when the clocks change."""

    gap: str
    fold: str


class ScheduleFields(TypedDict, total=False):
    """The fields of a schedule; `domain.schedules.schedule` explains each of them."""

    job: Required[str]
    rule: Required[Mapping[str, Any]]
    zone: str
    description: str
    enabled: bool
    calendar: str
    require: Sequence[str]
    exclude: Sequence[str]
    dst: DstFields
    start: DateTimeLike
    end: DateTimeLike
    max_runs: int
    initial_delay: DurationLike
    run_at_start: bool
    jitter: DurationLike
    spread: DurationLike
    parameters: Mapping[str, Any]
    queue: str
    priority: int
    overlap: str
    misfire: MisfireFields
    on_resume: str
    pause_after_failures: int


class CalendarFields(TypedDict, total=False):
    """The fields of a calendar; `domain.calendars.calendar_parser` explains each of them.

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
class Declaration(Generic[_Value]):
    """A declared value and the file and line of its declaration: `schedules/nightly.py:12`."""

    value: _Value
    place: str


@dataclass(slots=True)
class Declarations:
    """The schedules and calendars that a package declares, by name."""

    schedules: dict[str, Declaration[Schedule]] = field(default_factory=dict)
    calendars: dict[str, Declaration[Calendar]] = field(default_factory=dict)
    #: Modules that could not be imported; their declarations are unknown.
    broken_modules: list[BrokenModule] = field(default_factory=list)


def load_declarations(package: str) -> Declarations:
    """Return the declarations of a package's modules; raises `ConfigurationError` if there is no such package."""
    with collect_declarations() as declarations:
        declarations.broken_modules = loading.reload_modules(package, "schedules", "JOBWORKER_SCHEDULES")
    return declarations


_active_declarations: contextvars.ContextVar[Declarations | None] = contextvars.ContextVar("declarations", default=None)


@contextlib.contextmanager
def collect_declarations() -> Iterator[Declarations]:
    """Yield the declarations, which are collected while the block runs."""
    declarations = Declarations()
    token = _active_declarations.set(declarations)
    try:
        yield declarations
    finally:
        _active_declarations.reset(token)


def schedule(name: str, **fields: Unpack[ScheduleFields]) -> Schedule:
    """Declare a schedule and return it.

    The fields are those of the API; `job` and `rule` are required. Times and durations may be values of `datetime`.
    Raises `ConfigurationError` with the file and line of the declaration and all errors in it. A name may be declared
    once.
    """
    place = _find_caller()
    definition = {"name": name, **{key: to_json_value(value) for key, value in fields.items() if value is not None}}
    try:
        _check_parameters(definition.get("parameters"))
        _check_rule(definition.get("rule"))
        result = schedules.parse(definition)
    except InvalidInput as error:
        raise _make_error("schedule", name, place, error) from None
    declarations = _active_declarations.get()
    if declarations is not None:
        _add_declaration(declarations.schedules, "schedule", name, Declaration(result, place))
    return result


def calendar(name: str, **fields: Unpack[CalendarFields]) -> Calendar:
    """Declare a calendar and return it: `calendar("DE", country="DE")` has the business days of Germany.

    The fields are those of the API; `kind` is "business" by default, the other kind is "dates". Raises
    `ConfigurationError` as `schedule` does.
    """
    place = _find_caller()
    definition: dict[str, Any] = {"kind": "business", **{key: to_json_value(value) for key, value in fields.items()}}
    try:
        if not NAME_PATTERN.match(str(name)):
            message = "name must be 1 to 128 of the characters A-Z a-z 0-9 _ . : -, the first a letter or a digit"
            raise InvalidInput(message, [FieldError("/name", "not_allowed", message)])
        result = calendar_parser.parse(_expand_country(definition))
    except InvalidInput as error:
        raise _make_error("calendar", name, place, error) from None
    declarations = _active_declarations.get()
    if declarations is not None:
        _add_declaration(declarations.calendars, "calendar", name, Declaration(result, place))
    return result


def _expand_country(definition: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the API, in which `country` is one entry of `holidays`."""
    country = {key: definition.pop(key) for key in ("country", "subdivision") if key in definition}
    return {**definition, "holidays": [country, *definition.get("holidays", ())]} if country else definition


def _check_parameters(parameters: Any) -> None:
    """Raise `InvalidInput` for parameters that are not JSON; Python code can pass any value, HTTP clients cannot."""
    try:
        json.dumps(parameters, allow_nan=False)
        json_values.check(parameters)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"parameters cannot be kept as JSON: {error}"
        raise InvalidInput(message, [FieldError("/parameters", "not_allowed", message)]) from None


def _check_rule(rule: Any) -> None:
    """Raise `InvalidInput` for a text such as `rule="0 3 * * *"`, and name the function that makes a rule of it."""
    if isinstance(rule, str):
        message = f"rule is what a function makes: cron({rule!r}), or daily, weekly, monthly, every, once, rrule, …"
        raise InvalidInput(message, [FieldError("/rule", "wrong_type", message)])


def _add_declaration(
    declarations: dict[str, Declaration[_Value]], kind: str, name: str, declared: Declaration[_Value]
) -> None:
    previous = declarations.get(name)
    if previous is None:
        declarations[name] = declared
        return
    if previous.place == declared.place:
        why = "is declared twice by the same line: declare it where the module runs once"
    else:
        why = f"is declared already, at {previous.place}"
    raise ConfigurationError(f"{declared.place}: {kind} {name} {why}")


def _make_error(kind: str, name: object, place: str, error: InvalidInput) -> ConfigurationError:
    message = "; ".join(f"{problem.pointer}: {problem.message}" for problem in error.errors)
    return ConfigurationError(f"{place}: {kind} {name!r}: {message}")


def _find_caller() -> str:
    """Return the file and line of the code that called the caller of this function."""
    caller = sys._getframe(2)
    file = Path(caller.f_code.co_filename)
    with contextlib.suppress(ValueError):
        file = file.relative_to(Path.cwd())
    return f"{file}:{caller.f_lineno}"
