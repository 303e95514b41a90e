"""`jobworker executions`: what was submitted, and how it stands."""

import functools
from typing import Any

import click

from jobworker.cli import common, many, telling
from jobworker.clock import SystemClock
from jobworker.domain.execution import State
from jobworker.services import cancelling, executions
from jobworker.services.revoking import revoke_asked
from jobworker.store.executions import ExecutionRow
from jobworker.store.filters import Filters
from jobworker.store.pages import MAX_LIMIT
from jobworker.telemetry import plain_text
from jobworker.transport.wake import Waker

_STATES = [state.value for state in State]


@click.group("executions", invoke_without_command=True)
@click.option("--job", help="Only those of this job.")
@click.option("--state", type=click.Choice(_STATES, case_sensitive=False), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=20, show_default=True, help="The latest so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def command(context: click.Context, /, job: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List executions, newest first."""
    if context.invoked_subcommand is not None:
        if job or state or as_json:
            raise click.UsageError(f"put options behind {context.invoked_subcommand}")
        return
    filters = Filters(job=job, state=State(state) if state else None)
    with common.database(common.prepare()) as database:
        rows = executions.page(database, filters, limit).items
    for row in rows:
        click.echo(telling.json(row) if as_json else _line(row))


@command.command()
@many.selecting
@many.of_unfinished
@click.pass_context
def cancel(context: click.Context, /, ids: tuple[str, ...], everything: bool, dry_run: bool, **given: Any) -> None:
    """Cancel executions that have not ended; exit code 1 if some of those named have."""
    settings = common.prepare()
    wanted = many.selection(ids, everything, dry_run, given)
    with common.database(settings) as database:
        code = many.carry_out(
            lambda one: cancelling.cancel(database, SystemClock(), one, common.actor()), wanted, "cancelled"
        )
        Waker(settings.redis_url, functools.partial(revoke_asked, database)).notify(cancelled=True)
    context.exit(code)


def _line(row: ExecutionRow) -> str:
    padding = " " * (max(map(len, _STATES)) - len(row.state))
    created = f"{row.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
    return f"{row.id}  {telling.state(row.state)}{padding}  {created}  {row.job}{_because(row)}"


def _because(row: ExecutionRow) -> str:
    why = (row.error or {}).get("message") or row.reason
    return f"  ({plain_text.one_line(why)})" if why else ""
