"""`jobworker backup`: a copy of the database while JobWorker runs."""

from pathlib import Path

import click

from jobworker.cli import common
from jobworker.clock import SystemClock
from jobworker.store import backup, migrate


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """Copy the SQLite database to FILE, which must not exist, and check the copy; JobWorker may run meanwhile."""
    url = common.start_command().database_url
    migrate.check_exists(url)
    size = backup.create_backup(url, file, SystemClock())
    click.echo(f"{file}: {size / 1024**2:.1f} MiB, checked")
