"""Shared parts of commands: the settings of this folder, and its database."""

import contextlib
import getpass
from collections.abc import Iterator

from jobworker.domain.errors import ConfigurationError, DatabaseBusy
from jobworker.settings import Settings
from jobworker.store import migrate
from jobworker.store.database.database import BACKGROUND_TIMEOUTS, UNAVAILABLE, Database
from jobworker.telemetry import logging
from jobworker.up import discovery


def start_command() -> Settings:
    """Begin a command: configure quiet logs, and return the settings."""
    logging.configure("text", "WARNING", "cli")
    return discovery.read_settings()


@contextlib.contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Yield the database; raises `ConfigurationError` if it lacks the schema of this code, or does not respond."""
    if settings.database_in_home:
        settings.require_home()
    migrate.check_exists(settings.database_url)
    opened = Database(settings.database_url, BACKGROUND_TIMEOUTS)
    try:
        migrate.check_revision(opened)
        yield opened
    except DatabaseBusy:
        raise
    except UNAVAILABLE as error:
        raise ConfigurationError(f"the database does not respond: {getattr(error, 'orig', error)}") from error
    finally:
        opened.dispose()


def get_actor() -> str:
    """Return the actor that is recorded for a command's requests."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # in a container the user may have no name
        return "cli"
