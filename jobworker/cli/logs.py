"""`jobworker logs`: what a job wrote."""

import threading

import click

from jobworker.cli import common, telling
from jobworker.clock import SystemClock
from jobworker.services import following
from jobworker.store.story import LogRow


@click.command("logs")
@click.argument("execution_id", metavar="ID")
@click.option("--follow", is_flag=True, help="Go on until the execution has ended.")
def command(execution_id: str, follow: bool) -> None:
    """Print the log of execution ID."""
    clock = SystemClock()
    with common.open_database(common.start_command()) as database:
        follower = following.open_cursor(database, execution_id, None)
        while True:
            for news in follower.poll(database):
                if isinstance(news, LogRow):
                    click.echo(telling.format_log_line(news))
            if follower.is_done(clock.monotonic()) or not (follow or follower.has_more):
                return
            if not follower.has_more:
                clock.wait(threading.Event(), telling.POLL_INTERVAL_SECONDS)
