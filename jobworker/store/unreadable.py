"""Rows that cannot be read, because a JSON column holds something else than this code has written there.

Another program wrote it, or another version, or a disk lost it. Such a row must not keep anybody from the
others: it is logged once, named in `/readyz`, and noted in the lists that leave it or a part of it out.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog

from jobworker.domain.errors import UnreadableRow
from jobworker.store.columns import Garbage
from jobworker.telemetry.once import OncePerKey

Made = TypeVar("Made")

logger = structlog.get_logger(__name__)

#: What is raised where a value is not what it should be.
ERRORS = (UnreadableRow, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

#: What this process has met, by what it is: "job export" → why it cannot be read.
found = OncePerKey()

#: A problem may quote what stands in the row: no more than this (characters).
_LONGEST = 200


def note(what: str, problem: str) -> None:
    """Log that `what` cannot be read, unless that was said before."""
    if found.first(what, problem):
        logger.error("row_unreadable", row=what, problem=problem)


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever malformed content raises into `UnreadableRow`, which is noted."""
    try:
        yield
    except ERRORS as error:
        if not isinstance(error, UnreadableRow):
            note(what, _problem(error))
        raise UnreadableRow(f"{what} cannot be read: {found.problems().get(what, str(error))}") from error
    found.forget(what)


def reader(what: Callable[[Any], str], make: Callable[[Any], Made]) -> Callable[[sa.Row[Any]], Made]:
    """`make`, which raises `UnreadableRow` for a row that it cannot read."""

    def read(row: sa.Row[Any]) -> Made:
        try:
            made = make(row)
        except ERRORS:
            with reading(what(row)):
                return make(row)
        found.forget(what(row))
        return made

    return read


def those(rows: Iterable[sa.Row[Any]], read: Callable[[sa.Row[Any]], Made]) -> Iterator[Made]:
    """What can be read of these rows."""
    for row in rows:
        with contextlib.suppress(UnreadableRow):
            yield read(row)


def mended(what: str, values: dict[str, Any], shapes: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    """The values of a row without those that have not their shape: they are noted, and `EMPTY` stands for them."""
    wrong = [name for name, fits in shapes.items() if not (_may_be_null(name, values[name]) or fits(values[name]))]
    if wrong:
        note(what, "; ".join(f"{name} is {_shown(values[name])}" for name in wrong))
        values |= {name: EMPTY.get(name) for name in wrong}
    else:
        found.forget(what)
    return values


#: What stands for a column that has to be there. Others are null.
EMPTY: Mapping[str, Any] = {"parameters": {}, "queues": [], "tasks": []}


def _may_be_null(name: str, value: Any) -> bool:
    return value is None and name not in EMPTY


def is_object(value: Any) -> bool:
    """Whether this is a JSON object."""
    return isinstance(value, dict)


def is_texts(value: Any) -> bool:
    """Whether this is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def is_json(value: Any) -> bool:
    """Whether this is JSON at all."""
    return not isinstance(value, Garbage)


def has(**types: Any) -> Callable[[Any], bool]:
    """Whether a value is an object with members of these types."""

    def fits(value: Any) -> bool:
        return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in types.items())

    return fits


def _problem(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_LONGEST]


def _shown(value: Any) -> str:
    return (value.problem if isinstance(value, Garbage) else repr(value))[:_LONGEST]
