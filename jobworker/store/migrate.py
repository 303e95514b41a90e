"""Schema upgrades, and the schema revision of a database.

Alembic keeps the number of the last migration in the table `alembic_version`. All migrations run in one
transaction under a lock: they take effect together or not at all, and a second process that upgrades
at the same time waits and then has nothing left to do.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from jobworker.domain.errors import ConfigurationError
from jobworker.store.database.database import MIGRATION_TIMEOUTS, Database

#: Key of PostgreSQL's advisory lock: a number that other programs are unlikely to use ("jobw" in ASCII).
_LOCK_KEY = 0x6A6F6277

_MIGRATIONS = Path(__file__).parent / "migrations"


def get_head() -> str:
    """Return the schema revision that this code needs."""
    newest = _load_scripts().get_current_head()
    assert newest is not None
    return newest


def upgrade(url: str) -> str:
    """Run all migrations that the database at `url` lacks; return its new revision.

    Raises `ConfigurationError` if the database cannot be opened or was made by a newer JobWorker.
    """
    with _open_database(url) as database, database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_KEY)))
        _refuse_newer(_get_current(connection))
        # Alembic neither begins nor commits when a transaction is already open.
        context = MigrationContext.configure(connection, opts={"fn": _list_steps_to_head})
        with Operations.context(context):
            context.run_migrations()
    return get_head()


def get_revision(url: str) -> str | None:
    """Return the schema revision of the database at `url`; None if the database is empty."""
    with _open_database(url) as database, database.read() as connection:
        return _get_current(connection)


def check_revision(database: Database) -> None:
    """Raise `ConfigurationError`, with the remedy, unless the database has exactly the schema of this code."""
    with _convert_errors(database.url), database.read() as connection:
        current = _get_current(connection)
    _refuse_newer(current)
    if current != get_head():
        raise ConfigurationError(
            f"the database is at revision {current or 'none'}, this JobWorker needs {get_head()}: "
            "run jobworker db upgrade"
        )


def check_exists(url: str) -> None:
    """Raise `ConfigurationError` if the SQLite file does not exist, because a reader must not create it."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
        raise ConfigurationError(f"there is no database {parsed.database} yet: run jobworker db upgrade")


def _load_scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_MIGRATIONS))


def _get_current(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(current: str | None) -> None:
    if current is None:
        return
    try:
        _load_scripts().get_revision(current)
    except CommandError:
        raise ConfigurationError(
            f"the database is at revision {current}, made by a newer JobWorker; upgrade the code, "
            f"which knows {get_head()}"
        ) from None


def _list_steps_to_head(current: tuple[str, ...], _context: MigrationContext) -> list[RevisionStep]:
    script = _load_scripts()
    missing = reversed(list(script.iterate_revisions("head", current or "base")))
    return [RevisionStep(script.revision_map, step, is_upgrade=True) for step in missing]


@contextlib.contextmanager
def _open_database(url: str) -> Iterator[Database]:
    database = Database(url, MIGRATION_TIMEOUTS)
    try:
        with _convert_errors(database.url):
            yield database
    finally:
        database.dispose()


@contextlib.contextmanager
def _convert_errors(url: sa.URL) -> Iterator[None]:
    """Convert database errors into `ConfigurationError`, which the CLI prints for the operator without a traceback."""
    try:
        yield
    except sa.exc.DatabaseError as error:
        raise ConfigurationError(f"the database {url.render_as_string()} cannot be used: {error.orig}") from error
