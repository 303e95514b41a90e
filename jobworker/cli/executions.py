"""`jobworker executions`: submitted executions, with their states."""

import functools
from typing import Any

import click

from jobworker.cli import bulk, common, formatting
from jobworker.clock import SystemClock
from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.bulk import cancellation
from jobworker.services.executions import executions
from jobworker.services.executions.message_revocation import revoke_cancelled
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.pagination import MAX_LIMIT
from jobworker.telemetry import plain_text
from jobworker.transport.notifier import Notifier

_STATE_VALUES = [state.value for state in ExecutionState]


@click.group("executions", invoke_without_command=True)
@click.option("--job", help="Only executions of this job.")
@click.option("--state", type=click.Choice(_STATE_VALUES, case_sensitive=False), help="Only executions in this state.")
@click.option(
    "--limit", type=click.IntRange(1, MAX_LIMIT), default=20, show_default=True, help="Maximum number of executions."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.pass_context
def command(context: click.Context, /, job: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List executions, newest first."""
    if context.invoked_subcommand is not None:
        if job or state or as_json:
            raise click.UsageError(f"put options after {context.invoked_subcommand}")
        return
    filters = ExecutionFilters(job=job, state=ExecutionState(state) if state else None)
    with common.open_database(common.start_command()) as database:
        rows = executions.list_page(database, filters, limit).items
    for row in rows:
        click.echo(formatting.format_json(row) if as_json else _format_execution(row))


@command.command()
@bulk.add_selection_options
@bulk.add_unfinished_options
@click.pass_context
def cancel(
    context: click.Context, /, ids: tuple[str, ...], everything: bool, dry_run: bool, **filter_options: Any
) -> None:
    """Cancel executions that have not ended; exit code 1 if some of the ids are of executions that have ended."""
    settings = common.start_command()
    selection = bulk.make_selection(ids, everything, dry_run, filter_options)
    with common.open_database(settings) as database:
        code = bulk.run_bulk_action(
            lambda chunk: cancellation.cancel_executions(database, SystemClock(), chunk, common.get_actor()),
            selection,
            "cancelled",
        )
        Notifier(settings.redis_url, functools.partial(revoke_cancelled, database)).notify(cancelled=True)
    context.exit(code)


def _format_execution(row: ExecutionRow) -> str:
    padding = " " * (max(map(len, _STATE_VALUES)) - len(row.state))
    created = f"{row.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
    return f"{row.id}  {formatting.format_state(row.state)}{padding}  {created}  {row.job}{_format_reason(row)}"


def _format_reason(row: ExecutionRow) -> str:
    why = (row.error or {}).get("message") or row.reason
    return f"  ({plain_text.to_one_line(why)})" if why else ""
