"""Bulk statements: one statement for many rows, at the speed of the driver.

SQLAlchemy spends most of an executemany on preparing the parameters of each row: two thirds of the relay's
time. Here the statement is compiled once per dialect, and a row costs little more than the conversions of its
types.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from jobworker.store.database.columns import UtcDateTime

#: Number of converted times cached for each parameter.
_TIME_CACHE_SIZE = 64

_Processor = Callable[[Any], Any] | None


@dataclass(slots=True)
class _CompiledStatement:
    sql: str
    #: For each parameter of the SQL: its name, its index in the row, the conversion of its type.
    parameters: list[tuple[str, int, _Processor]]
    positional: bool

    def convert(self, row: Sequence[Any]) -> Any:
        if self.positional:
            return tuple([process(row[at]) if process else row[at] for _, at, process in self.parameters])
        return {name: process(row[at]) if process else row[at] for name, at, process in self.parameters}


@dataclass(slots=True)
class BulkStatement:
    """Statement with one bind parameter for each of `names`; a row is a sequence of values in that order.

    `build` returns the statement for the name of a dialect.
    """

    build: Callable[[str], Any]
    names: Sequence[str]
    _compiled: dict[str, _CompiledStatement] = field(default_factory=dict)

    def run(self, connection: sa.Connection, rows: Iterable[Sequence[Any]]) -> int:
        """Execute the statement for each row, in the connection's transaction; return the number of changed rows."""
        compiled = self._compiled.get(connection.dialect.name)
        if compiled is None:
            compiled = self._compiled[connection.dialect.name] = self._compile(connection.dialect)
        converted = [compiled.convert(row) for row in rows]
        if not converted:
            return 0
        # On PostgreSQL SQLAlchemy drops the row count (-1) without this option.
        return connection.exec_driver_sql(compiled.sql, converted, {"preserve_rowcount": True}).rowcount

    def _compile(self, dialect: sa.Dialect) -> _CompiledStatement:
        compiled: Any = self.build(dialect.name).compile(dialect=dialect)
        order = compiled.positiontup if compiled.positional else list(compiled.binds)
        places = {name: at for at, name in enumerate(self.names)}
        parameters = [
            (name, places[name], _get_bind_processor(compiled.binds[name].type.dialect_impl(dialect), dialect))
            for name in order
        ]
        return _CompiledStatement(str(compiled), parameters, bool(compiled.positional))


def _get_bind_processor(kind: Any, dialect: sa.Dialect) -> _Processor:
    """Return the conversion of a type, cached for times: they are costly, and the rows of a statement share them."""
    process: _Processor = kind.bind_processor(dialect)
    return (
        functools.lru_cache(maxsize=_TIME_CACHE_SIZE)(process) if process and isinstance(kind, UtcDateTime) else process
    )


def build_insert_or_ignore(table: sa.Table, names: Sequence[str]) -> Callable[[str], Any]:
    """Return a builder of `INSERT INTO table (names) VALUES (…)` that skips existing rows."""

    def build(name: str) -> Any:
        values = {column: sa.bindparam(column, type_=table.c[column].type) for column in names}
        dialect = postgresql if name == "postgresql" else sqlite
        return dialect.insert(table).values(values).on_conflict_do_nothing()

    return build


def build_insert(table: sa.Table, names: Sequence[str]) -> Callable[[str], Any]:
    """Return a builder of `INSERT INTO table (names) VALUES (…)`."""
    return lambda _dialect: sa.insert(table).values(
        {name: sa.bindparam(name, type_=table.c[name].type) for name in names}
    )
