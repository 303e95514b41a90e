"""`jobworker dead-letters`: what ended badly, until somebody has decided about it."""

from typing import Any

import click

from jobworker.cli import arguments, common, many, telling
from jobworker.clock import SystemClock
from jobworker.services import dead_letters
from jobworker.services.dead_letters import Order
from jobworker.store.dead_letters import DeadLetterRow, Group
from jobworker.store.pages import MAX_LIMIT
from jobworker.telemetry import plain_text
from jobworker.transport.wake import Waker

_limit = click.option(
    "--limit", type=click.IntRange(1, MAX_LIMIT), default=20, show_default=True, help="At most so many."
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
_note = click.option("--note", help="Why: it is kept with the dead letter.")


@click.group("dead-letters")
def command() -> None:
    """Look after what ended badly."""


@command.command("list")
@many.of_dead_letters
@_limit
@_json
def list_(limit: int, as_json: bool, **given: Any) -> None:
    """List open dead letters, the executions that were accepted last first."""
    with common.database(common.prepare()) as database:
        rows = dead_letters.page(database, many.filters(given), limit).items
    for row in rows:
        click.echo(telling.json(row) if as_json else _line(row))


@command.command()
@_limit
@_json
def groups(limit: int, as_json: bool) -> None:
    """Count open dead letters by the kind of their failure, the largest groups first."""
    with common.database(common.prepare()) as database:
        found = dead_letters.groups(database, limit)
    for group in found:
        click.echo(telling.json(group) if as_json else _group(group))


@command.command()
@many.selecting
@many.of_dead_letters
@click.option("--patch", help='A JSON merge patch for the parameters, such as \'{"format": "json"}\'.')
@click.option("--rate", type=float, help="So many become due each second.")
@_note
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
    **given: Any,
) -> None:
    """Run dead letters again, each as a new execution; exit code 1 if some of them cannot be."""
    settings = common.prepare()
    order = Order(patch=arguments.object_of(patch, "--patch") if patch else {}, rate=rate, note=note)
    wanted = many.selection(ids, everything, dry_run, given)
    with common.database(settings) as database:
        code = many.carry_out(
            lambda one: dead_letters.redrive(database, SystemClock(), one, order, common.actor()), wanted, "redriven"
        )
    Waker(settings.redis_url).notify()
    context.exit(code)


@command.command()
@many.selecting
@many.of_dead_letters
@_note
@click.pass_context
def discard(
    context: click.Context, /, ids: tuple[str, ...], everything: bool, dry_run: bool, note: str | None, **given: Any
) -> None:
    """Leave dead letters at that; exit code 1 if some of those named are none."""
    wanted = many.selection(ids, everything, dry_run, given)
    with common.database(common.prepare()) as database:
        code = many.carry_out(
            lambda one: dead_letters.discard(database, SystemClock(), one, note, common.actor()), wanted, "discarded"
        )
    context.exit(code)


def _line(row: DeadLetterRow) -> str:
    ended = f"{row.finished_at.astimezone():%Y-%m-%d %H:%M:%S}"
    return f"{row.id}  {telling.state(row.state)}  {ended}  {row.fingerprint}  {row.job}: {_why(row)}"


def _group(group: Group) -> str:
    since, until = (f"{each.astimezone():%Y-%m-%d %H:%M:%S}" for each in (group.first_seen, group.last_seen))
    return f"{group.count:6}  {group.fingerprint}  {since} to {until}  {group.example.job}: {_why(group.example)}"


def _why(row: DeadLetterRow) -> str:
    error = row.error or {}
    return plain_text.one_line(f"{error.get('type')}: {error.get('message')}" if error else str(row.reason))
