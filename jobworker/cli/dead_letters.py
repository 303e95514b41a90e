"""`jobworker dead-letters`: executions that failed for good and await a decision."""

from typing import Any

import click

from jobworker.cli import arguments, bulk, common, formatting
from jobworker.clock import SystemClock
from jobworker.services.executions import dead_letters
from jobworker.services.executions.dead_letters import RedriveOptions
from jobworker.store.executions.dead_letters import DeadLetterGroup, DeadLetterRow
from jobworker.store.pagination import MAX_LIMIT
from jobworker.telemetry import plain_text
from jobworker.transport.notifier import Notifier

_limit_option = click.option(
    "--limit", type=click.IntRange(1, MAX_LIMIT), default=20, show_default=True, help="Maximum number of rows."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
_note_option = click.option("--note", help="Reason, which is stored with the dead letter.")


@click.group("dead-letters")
def command() -> None:
    """Manage dead letters: executions that failed for good."""


@command.command("list")
@bulk.add_dead_letter_options
@_limit_option
@_json_option
def list_(limit: int, as_json: bool, **filter_options: Any) -> None:
    """List open dead letters, the executions that were accepted last first."""
    with common.open_database(common.start_command()) as database:
        rows = dead_letters.list_page(database, bulk.make_filters(filter_options), limit).items
    for row in rows:
        click.echo(formatting.format_json(row) if as_json else _format_dead_letter(row))


@command.command()
@_limit_option
@_json_option
def groups(limit: int, as_json: bool) -> None:
    """Count open dead letters by the kind of their failure, the largest groups first."""
    with common.open_database(common.start_command()) as database:
        rows = dead_letters.list_groups(database, limit)
    for group in rows:
        click.echo(formatting.format_json(group) if as_json else _format_group(group))


@command.command()
@bulk.add_selection_options
@bulk.add_dead_letter_options
@click.option("--patch", help='A JSON merge patch for the parameters, such as \'{"format": "json"}\'.')
@click.option("--rate", type=float, help="Number of executions that become due per second.")
@_note_option
@click.pass_context
def redrive(
    context: click.Context,
    /,
    ids: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    patch: str | None,
    rate: float | None,
    note: str | None,
    **filter_options: Any,
) -> None:
    """Run dead letters again, each as a new execution; exit code 1 if some of them cannot be redriven."""
    settings = common.start_command()
    order = RedriveOptions(patch=arguments.parse_object(patch, "--patch") if patch else {}, rate=rate, note=note)
    selection = bulk.make_selection(ids, everything, dry_run, filter_options)
    with common.open_database(settings) as database:
        code = bulk.run_bulk_action(
            lambda chunk: dead_letters.redrive(database, SystemClock(), chunk, order, common.get_actor()),
            selection,
            "redriven",
        )
    Notifier(settings.redis_url).notify()
    context.exit(code)


@command.command()
@bulk.add_selection_options
@bulk.add_dead_letter_options
@_note_option
@click.pass_context
def discard(
    context: click.Context,
    /,
    ids: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    note: str | None,
    **filter_options: Any,
) -> None:
    """Close dead letters without running them again; exit code 1 if some of the ids are not open dead letters."""
    selection = bulk.make_selection(ids, everything, dry_run, filter_options)
    with common.open_database(common.start_command()) as database:
        code = bulk.run_bulk_action(
            lambda chunk: dead_letters.discard(database, SystemClock(), chunk, note, common.get_actor()),
            selection,
            "discarded",
        )
    context.exit(code)


def _format_dead_letter(row: DeadLetterRow) -> str:
    ended = f"{row.finished_at.astimezone():%Y-%m-%d %H:%M:%S}"
    return (
        f"{row.id}  {formatting.format_state(row.state)}  {ended}  {row.fingerprint}  {row.job}: {_format_cause(row)}"
    )


def _format_group(group: DeadLetterGroup) -> str:
    since, until = (f"{time.astimezone():%Y-%m-%d %H:%M:%S}" for time in (group.first_seen, group.last_seen))
    return (
        f"{group.count:6}  {group.fingerprint}  {since} to {until}  {group.example.job}: {_format_cause(group.example)}"
    )


def _format_cause(row: DeadLetterRow) -> str:
    error = row.error or {}
    return plain_text.to_one_line(f"{error.get('type')}: {error.get('message')}" if error else str(row.reason))
