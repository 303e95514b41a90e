"""`jobworker wait`: wait until an execution has ended."""

import click

from jobworker.cli import arguments, common, formatting
from jobworker.clock import SystemClock
from jobworker.services.executions import executions


@click.command("wait")
@click.argument("execution_id", metavar="ID")
@click.option(
    "--timeout",
    type=arguments.DurationType(),
    help="Give up after this time (exit code 3); by default, wait without a limit.",
)
@click.pass_context
def command(context: click.Context, execution_id: str, timeout: float | None) -> None:
    """Wait for execution ID and print its result; exit code 0 if it succeeded, 1 if it ended otherwise."""
    seconds = float("inf") if timeout is None else timeout
    with common.open_database(common.start_command()) as database:
        context.exit(formatting.print_outcome(executions.wait_for_end(database, SystemClock(), execution_id, seconds)))
