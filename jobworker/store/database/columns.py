"""Column types with equal behavior on SQLite and PostgreSQL, and naming conventions of the schema."""

import datetime as dt
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

#: SQLite numbers rows only through INTEGER PRIMARY KEY.
BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


#: Maximum depth of JSON (levels): deeper values cannot be serialized again.
_MAX_DEPTH = 200


class InvalidJson:
    """Value of a JSON column that is not valid JSON; `problem` is the reason."""

    def __init__(self, problem: str) -> None:
        self.problem = problem


#: Placeholder for a time that cannot be read, recognized by identity. It is long past, so that a lease, a rate or a key
#: that depends on it has expired and nothing waits for it forever; and adding a duration to it does not overflow.
UNREADABLE_TIME = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def read_json(text: str | bytes) -> Any:
    """Return the parsed value, or `InvalidJson`, because one cell must not make the whole result unreadable."""
    try:
        value = orjson.loads(text)
    except (TypeError, ValueError) as error:
        return InvalidJson(f"not JSON ({error})")
    return value if _is_shallow(text, value) else InvalidJson(f"nested more than {_MAX_DEPTH} levels deep")


def _is_shallow(text: str | bytes, value: Any) -> bool:
    opened = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if opened <= _MAX_DEPTH:
        return True
    level = [value]
    for _ in range(_MAX_DEPTH):
        lists = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [below for items in lists for below in items]
        if not level:
            return True
    return False


class Json(sa.types.TypeDecorator[Any]):
    """JSON value; None is NULL. PostgreSQL stores jsonb, SQLite text.

    SQLAlchemy's own type is not used, because SQLite gives a column declared JSON numeric affinity and turns the
    text `0` into a number.
    """

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Return the column type in this database."""
        own = postgresql.JSONB(none_as_null=True) if dialect.name == "postgresql" else sa.Text()
        return dialect.type_descriptor(own)

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        """Serialize the value to text for SQLite; for PostgreSQL the engine serializes jsonb."""
        if value is None or dialect.name == "postgresql":
            return value
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        """Parse the text of SQLite; return `InvalidJson` for text that is not JSON."""
        if value is None or dialect.name == "postgresql":
            return value
        return read_json(value)


class UtcDateTime(sa.types.TypeDecorator[dt.datetime]):
    """Aware UTC time. SQLite stores it as readable UTC text, PostgreSQL as timestamptz."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        """Convert to UTC; raise `ValueError` for a naive time, because its moment is ambiguous."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive time {value!r}")
        value = value.astimezone(dt.UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        """Convert to an aware UTC time."""
        return None if value is None else _to_utc(value)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        """Return a reader of SQLite's text: SQLAlchemy's own raises for the whole result on one invalid time."""
        return read_utc_time if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


def read_utc_time(text: Any) -> dt.datetime | None:
    """Return the time in a column of SQLite; `UNREADABLE_TIME` if the column does not contain a time."""
    if text is None:
        return None
    try:
        return _to_utc(dt.datetime.fromisoformat(text))
    except (TypeError, ValueError, OverflowError):
        return UNREADABLE_TIME


def _to_utc(time: dt.datetime) -> dt.datetime:
    # `replace` takes three times as long.
    return dt.datetime.combine(time.date(), time.time(), dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def build_partial_index(name: str, *columns: Any, where: str) -> sa.Index:
    """Return an index of the rows that fulfill the condition `where`."""
    condition = sa.text(where)
    return sa.Index(name, *columns, sqlite_where=condition, postgresql_where=condition)
