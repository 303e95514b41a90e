"""`jobworker logs`: the log of an execution."""

import threading

import click

from jobworker.cli import common, formatting
from jobworker.clock import SystemClock
from jobworker.services.executions import execution_stream
from jobworker.store.executions.timeline import LogRow


@click.command("logs")
@click.argument("execution_id", metavar="ID")
@click.option("--follow", is_flag=True, help="Print new lines until the execution has ended.")
def command(execution_id: str, follow: bool) -> None:
    """Print the log of execution ID."""
    clock = SystemClock()
    with common.open_database(common.start_command()) as database:
        follower = execution_stream.open_cursor(database, execution_id, None)
        while True:
            for news in follower.poll(database):
                if isinstance(news, LogRow):
                    click.echo(formatting.format_log_line(news))
            if follower.is_done(clock.monotonic()) or not (follow or follower.has_more):
                return
            if not follower.has_more:
                clock.wait(threading.Event(), formatting.POLL_INTERVAL_SECONDS)
