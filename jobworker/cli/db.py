"""`jobworker db`: the schema of the database."""

import click

from jobworker.settings import Settings, mask_password
from jobworker.store import migrate


@click.group("db")
def command() -> None:
    """Manage the database."""


@command.command()
def upgrade() -> None:
    """Create the tables, or upgrade tables of an older version."""
    settings = Settings.from_environment()
    if settings.database_in_home:
        settings.require_home()
    url = settings.database_url
    before = migrate.get_revision(url)
    after = migrate.upgrade(url)
    done = "is up to date" if before == after else f"upgraded from {before or 'nothing'}"
    click.echo(f"{mask_password(url)}: revision {after}, {done}")
