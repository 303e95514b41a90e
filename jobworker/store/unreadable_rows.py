"""Unreadable rows: rows with a column whose content this code has not written.

Another program or version wrote the value, or a disk damaged it. Such a row must not make other rows inaccessible:
it is logged once, listed in `/readyz`, and named in the lists that leave out the row or a part of it.
"""

import contextlib
import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog

from jobworker.domain.errors import UnreadableRow
from jobworker.store.database.columns import UNREADABLE_TIME, InvalidJson, Json
from jobworker.telemetry.log_once import ProblemDeduplicator

Result = TypeVar("Result")

logger = structlog.get_logger(__name__)

#: Errors raised when a value has an unexpected type or content.
READ_ERRORS = (UnreadableRow, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

#: Unreadable rows found by this process: name ("job export") → reason.
problem_log = ProblemDeduplicator()

#: Maximum length of a problem (characters), because it may quote the content of the row.
_MAX_PROBLEM_LENGTH = 200


def report(row_name: str, problem: str) -> None:
    """Log that `row_name` cannot be read, unless this problem was logged before."""
    if problem_log.add(row_name, problem):
        logger.error("row_unreadable", row=row_name, problem=problem)


@contextlib.contextmanager
def convert_errors(row_name: str) -> Iterator[None]:
    """Convert errors caused by malformed content into `UnreadableRow`, and report the row."""
    try:
        yield
    except READ_ERRORS as error:
        raise _build_error(row_name, error) from error
    problem_log.forget(row_name)


def _build_error(row_name: str, error: Exception) -> UnreadableRow:
    if not isinstance(error, UnreadableRow):
        report(row_name, f"{type(error).__name__}: {error}"[:_MAX_PROBLEM_LENGTH])
    return UnreadableRow(f"{row_name} cannot be read: {problem_log.get_problems().get(row_name, str(error))}")


def build_reader(
    describe: Callable[[Any], str], parse: Callable[[Any], Result], table: sa.Table | None = None
) -> Callable[[sa.Row[Any]], Result]:
    """Return a function that calls `parse`, and for an unreadable row reports it and raises `UnreadableRow`.

    `describe` returns the name of a row. With a table, the columns of a row must have the types of its columns.
    """
    shape = RowShape(table) if table is not None else None

    def read(row: sa.Row[Any]) -> Result:
        try:
            if shape and (wrong := shape.find_mismatches(row._fields, row)):
                raise TypeError(_describe_columns(row._mapping, wrong, shape.table))
            result = parse(row)
        except READ_ERRORS as error:
            raise _build_error(describe(row), error) from error
        if problem_log:
            problem_log.forget(describe(row))
        return result

    return read


def read_all(rows: Iterable[Any], read: Callable[[sa.Row[Any]], Result]) -> Iterator[Result]:
    """Yield the results of `read`, built by `build_reader`, for these rows, without unreadable rows."""
    for row in rows:
        try:
            result = read(row)
        except UnreadableRow:
            continue
        yield result


@dataclass(frozen=True, slots=True)
class RowShape:
    """Required types of the columns of a row: the types of the table, JSON of a certain shape, members of an enum."""

    table: sa.Table
    json_checks: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    enums: Mapping[str, type[StrEnum]] = field(default_factory=dict)
    #: Column types of rows that were valid: comparing these is faster than checking each column.
    _valid_types: set[tuple[type, ...]] = field(default_factory=set)

    def find_mismatches(self, names: Iterable[str], row: Collection[Any]) -> list[str]:
        """Return the names of the columns whose type in a row differs from their type in the table."""
        types = tuple(map(type, row))
        if types in self._valid_types and UNREADABLE_TIME not in row:
            return []
        columns = self.table.c
        wrong = [
            name
            for name, value in zip(names, row, strict=True)
            if name in columns and not _has_column_type(columns[name], value)
        ]
        if not wrong and len(self._valid_types) < _TYPES_CACHE_SIZE:
            self._valid_types.add(types)
        return wrong

    def can_replace(self, name: str) -> bool:
        """Return whether a row can be used without this column."""
        column = self.table.c[name]
        return (
            bool(column.nullable)
            or name in DEFAULTS
            or isinstance(column.type, Json)
            or column.type.python_type is dt.datetime
        )


#: Maximum number of cached type combinations; nullable columns cause many.
_TYPES_CACHE_SIZE = 1000


def _has_column_type(column: sa.Column[Any], value: Any) -> bool:
    if value is None:
        return bool(column.nullable) or isinstance(column.type, Json)
    if isinstance(column.type, Json):
        return True
    right = column.type.python_type
    return value is not UNREADABLE_TIME and isinstance(value, (int, float) if right is float else right)


def repair_row(row_name: str, values: dict[str, Any], shape: RowShape) -> dict[str, Any]:
    """Return the values of a row with invalid values replaced by those of `DEFAULTS`; report the replaced values.

    An unreadable time stays `UNREADABLE_TIME`. Raises `UnreadableRow` if a value cannot be replaced.
    """
    wrong = shape.find_mismatches(values, values.values())
    wrong += [
        name for name, fits in shape.json_checks.items() if not (_may_be_null(name, values[name]) or fits(values[name]))
    ]
    lost = [name for name in wrong if not shape.can_replace(name)]
    for name, kind in shape.enums.items():
        try:
            values[name] = kind(values[name])
        except ValueError:
            lost.append(name)
    if not wrong and not lost:
        problem_log.forget(row_name)
        return values
    problem = _describe_columns(values, dict.fromkeys([*wrong, *lost]), shape.table)
    report(row_name, problem)
    if lost:
        raise UnreadableRow(f"{row_name} cannot be read: {problem}")
    return values | {name: DEFAULTS.get(name) for name in wrong if values[name] is not UNREADABLE_TIME}


def _describe_columns(values: Mapping[Any, Any], names: Iterable[str], table: sa.Table) -> str:
    columns = table.c
    return "; ".join(
        f"{name} is {_describe_value(values[name], isinstance(columns[name].type, Json))}" for name in names
    )


#: Replacements for invalid values of required columns; those of other columns become None.
DEFAULTS: Mapping[str, Any] = {"parameters": {}, "queues": [], "tasks": []}


def _may_be_null(name: str, value: Any) -> bool:
    return value is None and name not in DEFAULTS


def is_object(value: Any) -> bool:
    """Return whether `value` is a JSON object."""
    return isinstance(value, dict)


def is_string_list(value: Any) -> bool:
    """Return whether `value` is a list of strings."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_json(value: Any) -> bool:
    """Return whether `value` was read from valid JSON."""
    return not isinstance(value, InvalidJson)


def build_object_check(**types: Any) -> Callable[[Any], bool]:
    """Build a predicate that checks whether a value is an object with members of these types."""

    def fits(value: Any) -> bool:
        return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in types.items())

    return fits


#: Descriptions of JSON types, logged instead of values, because parameters and results must not be logged.
_JSON_KIND_NAMES: Mapping[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a text",
    bool: "a boolean",
    type(None): "null",
}


def _describe_value(value: Any, is_json: bool) -> str:
    if value is UNREADABLE_TIME:
        return "not a time"
    if isinstance(value, InvalidJson):
        return value.problem[:_MAX_PROBLEM_LENGTH]
    return _JSON_KIND_NAMES.get(type(value), "a number") if is_json else repr(value)[:_MAX_PROBLEM_LENGTH]
