"""Bring a database to the schema of this code, and say where it stands.

Alembic keeps the number of the last step in the table `alembic_version`. All steps run in one
transaction under a lock: they take effect together or not at all, and a second process that upgrades
at the same time waits and then finds nothing left to do.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from jobworker.domain.errors import Misconfigured
from jobworker.store.database import MIGRATING, Database

#: Key of PostgreSQL's advisory lock: a number that nobody else is likely to use ("jobw").
_LOCK = 0x6A6F6277

_MIGRATIONS = Path(__file__).parent / "migrations"


def head() -> str:
    """The revision that this code needs."""
    newest = _script().get_current_head()
    assert newest is not None
    return newest


def upgrade(url: str) -> str:
    """Run every step that the database at `url` still lacks; the revision it has then.

    Raises `Misconfigured` if the database cannot be opened or was made by a newer JobWorker.
    """
    with _opened(url) as database, database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        _refuse_newer(_current(connection))
        # Alembic leaves beginning and committing to us when it finds a transaction open.
        context = MigrationContext.configure(connection, opts={"fn": _steps_to_head})
        with Operations.context(context):
            context.run_migrations()
    return head()


def revision(url: str) -> str | None:
    """The revision of the database at `url`; None: it is empty."""
    with _opened(url) as database, database.read() as connection:
        return _current(connection)


def check(database: Database) -> None:
    """Raise `Misconfigured`, saying what to do, unless the database has exactly the schema of this code."""
    with _told_plainly(database.url), database.read() as connection:
        current = _current(connection)
    _refuse_newer(current)
    if current != head():
        raise Misconfigured(
            f"the database is at revision {current or 'none'}, this JobWorker needs {head()}: run jobworker db upgrade"
        )


def require(url: str) -> None:
    """Raise `Misconfigured` if there is no such SQLite file: who only wants to read must not make one."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
        raise Misconfigured(f"there is no database {parsed.database} yet: run jobworker db upgrade")


def _script() -> ScriptDirectory:
    return ScriptDirectory(str(_MIGRATIONS))


def _current(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(current: str | None) -> None:
    if current is None:
        return
    try:
        _script().get_revision(current)
    except CommandError:
        raise Misconfigured(
            f"the database is at revision {current}, made by a newer JobWorker; upgrade the code, which knows {head()}"
        ) from None


def _steps_to_head(current: tuple[str, ...], _context: MigrationContext) -> list[RevisionStep]:
    script = _script()
    missing = reversed(list(script.iterate_revisions("head", current or "base")))
    return [RevisionStep(script.revision_map, step, is_upgrade=True) for step in missing]


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = Database(url, MIGRATING)
    try:
        with _told_plainly(database.url):
            yield database
    finally:
        database.dispose()


@contextlib.contextmanager
def _told_plainly(url: sa.URL) -> Iterator[None]:
    """A database that is not there, is none or refuses us is the operator's business, without a traceback."""
    try:
        yield
    except sa.exc.DatabaseError as error:
        raise Misconfigured(f"the database {url.render_as_string()} cannot be used: {error.orig}") from error
