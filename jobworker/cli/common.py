"""What several commands need: the settings of this place, and its database."""

import contextlib
import getpass
from collections.abc import Iterator

from jobworker.domain.errors import DatabaseBusy, Misconfigured
from jobworker.settings import Settings
from jobworker.store import migrate
from jobworker.store.database import PATIENT, UNAVAILABLE, Database
from jobworker.telemetry import logging
from jobworker.up import running


def prepare() -> Settings:
    """Begin a command: quiet logs, and the settings."""
    logging.configure("text", "WARNING", "cli")
    return running.read_settings()


@contextlib.contextmanager
def database(found: Settings) -> Iterator[Database]:
    """The database, if it has the schema of this code; raises `Misconfigured` if not, or if it does not answer."""
    if found.database_in_home:
        found.require_home()
    migrate.require(found.database_url)
    opened = Database(found.database_url, PATIENT)
    try:
        migrate.check(opened)
        yield opened
    except DatabaseBusy:
        raise
    except UNAVAILABLE as error:
        raise Misconfigured(f"the database does not answer: {getattr(error, 'orig', error)}") from error
    finally:
        opened.dispose()


def actor() -> str:
    """Who is recorded as having asked."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container may run as a number without a name
        return "cli"
