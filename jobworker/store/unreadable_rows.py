"""Rows that cannot be read, because a column holds something else than this code has written there.

Another program wrote it, or another version, or a disk lost it. Such a row must not keep anybody from the
others: it is logged once, named in `/readyz`, and noted in the lists that leave it or a part of it out.
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
from jobworker.store.engine.columns import UNREADABLE_TIME, InvalidJson, Json
from jobworker.telemetry.once import ProblemDeduplicator

Result = TypeVar("Result")

logger = structlog.get_logger(__name__)

#: What is raised where a value is not what it should be.
READ_ERRORS = (UnreadableRow, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

#: What this process has met, by what it is: "job export" → why it cannot be read.
problem_log = ProblemDeduplicator()

#: A problem may quote what stands in the row: no more than this (characters).
_MAX_PROBLEM_LENGTH = 200


def report(row_name: str, problem: str) -> None:
    """Log that `row_name` cannot be read, unless that was said before."""
    if problem_log.add(row_name, problem):
        logger.error("row_unreadable", row=row_name, problem=problem)


@contextlib.contextmanager
def convert_errors(row_name: str) -> Iterator[None]:
    """Turn whatever malformed content raises into `UnreadableRow`, which is noted."""
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
    """Return `parse` as a function that notes a row that it cannot read, named by `describe`, and raises `UnreadableRow`.

    With a table, the columns of a row must have the types that the table says.
    """
    shape = RowShape(table) if table is not None else None

    def read(row: sa.Row[Any]) -> Result:
        try:
            if shape and (wrong := shape.find_mismatches(row._fields, row)):
                raise TypeError(_describe_columns(row._mapping, wrong, shape.table))
            made = parse(row)
        except READ_ERRORS as error:
            raise _build_error(describe(row), error) from error
        if problem_log:
            problem_log.forget(describe(row))
        return made

    return read


def read_all(rows: Iterable[Any], read: Callable[[sa.Row[Any]], Result]) -> Iterator[Result]:
    """Yield what `read`, made by `reader`, makes of these rows; those that it cannot read are left out."""
    for row in rows:
        try:
            made = read(row)
        except UnreadableRow:
            continue
        yield made


@dataclass(frozen=True, slots=True)
class RowShape:
    """What the columns of a row have to be: of the type that the table says, JSON of a shape, members of an enum."""

    table: sa.Table
    json_checks: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    enums: Mapping[str, type[StrEnum]] = field(default_factory=dict)
    #: Types of whole rows that were found right: comparing these is faster than looking at each column.
    _valid_types: set[tuple[type, ...]] = field(default_factory=set)

    def find_mismatches(self, names: Iterable[str], row: Collection[Any]) -> list[str]:
        """Return those of these columns that have another type in a row than their table says."""
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
        """Whether a row can be used without this column."""
        column = self.table.c[name]
        return (
            bool(column.nullable)
            or name in DEFAULTS
            or isinstance(column.type, Json)
            or column.type.python_type is dt.datetime
        )


#: Combinations of types that are remembered; columns that may be null make many.
_TYPES_CACHE_SIZE = 1000


def _has_column_type(column: sa.Column[Any], value: Any) -> bool:
    if value is None:
        return bool(column.nullable) or isinstance(column.type, Json)
    if isinstance(column.type, Json):
        return True
    right = column.type.python_type
    return value is not UNREADABLE_TIME and isinstance(value, (int, float) if right is float else right)


def repair_row(row_name: str, values: dict[str, Any], shape: RowShape) -> dict[str, Any]:
    """Return the values of a row without those that have not their shape: they are noted, and `EMPTY` stands for them.

    A time that cannot be read stays `UNREADABLE`. Raises `UnreadableRow` where nothing can stand for a value.
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


#: What stands for a column that has to be there. Others are null.
DEFAULTS: Mapping[str, Any] = {"parameters": {}, "queues": [], "tasks": []}


def _may_be_null(name: str, value: Any) -> bool:
    return value is None and name not in DEFAULTS


def is_object(value: Any) -> bool:
    """Whether this is a JSON object."""
    return isinstance(value, dict)


def is_string_list(value: Any) -> bool:
    """Whether this is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def is_json(value: Any) -> bool:
    """Whether this is JSON at all."""
    return not isinstance(value, InvalidJson)


def build_object_check(**types: Any) -> Callable[[Any], bool]:
    """Whether a value is an object with members of these types."""

    def fits(value: Any) -> bool:
        return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in types.items())

    return fits


#: What a JSON value is: parameters and results are not for logs.
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
