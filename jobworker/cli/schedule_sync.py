"""`jobworker schedules plan` and `apply`: the schedules declared in code, compared with those in the database."""

from collections.abc import Sequence

import click

from jobworker.cli import common, formatting
from jobworker.clock import SystemClock
from jobworker.declare import declarations
from jobworker.declare.declarations import Declarations
from jobworker.domain.errors import ConfigurationError
from jobworker.services.schedules import sync
from jobworker.services.schedules.sync import SyncChange, SyncOutcome
from jobworker.settings import Settings
from jobworker.telemetry import plain_text

_SIGNS = {
    SyncOutcome.CREATED: ("+", "green"),
    SyncOutcome.RESTORED: ("+", "green"),
    SyncOutcome.CHANGED: ("~", "yellow"),
    SyncOutcome.RETIRED: ("-", "red"),
    SyncOutcome.REMOVED: ("-", "red"),
    SyncOutcome.REFUSED: ("!", "red"),
}


@click.command()
@click.option("--exit-code", "exit_code", is_flag=True, help="Exit with 1 if there are changes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.pass_context
def plan(context: click.Context, /, exit_code: bool, as_json: bool) -> None:
    """Show the changes that the schedules in code would make, without making them."""
    settings = common.start_command()
    desired = require_declarations(settings)
    with common.open_database(settings) as database:
        changes = sync.plan_changes(database, SystemClock(), desired)
    _print_changes(changes, as_json)
    context.exit(1 if exit_code and changes else 0)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.pass_context
def apply(context: click.Context, /, as_json: bool) -> None:
    """Apply the schedules in code, as the relay does when it starts; exit code 1 if some of them are refused."""
    settings = common.start_command()
    desired = require_declarations(settings)
    with common.open_database(settings) as database:
        changes = sync.apply_declarations(database, SystemClock(), desired, common.get_actor())
    _print_changes(changes, as_json)
    context.exit(1 if any(change.step is SyncOutcome.REFUSED for change in changes) else 0)


def require_declarations(settings: Settings) -> Declarations:
    """Return the declarations of the code here; raises `ConfigurationError` unless all of it can be loaded."""
    result = declarations.load_declarations(settings.schedules)
    if result.broken_modules:
        raise ConfigurationError(
            "\n".join(f"{module} ({module.module} does not import)" for module in result.broken_modules)
        )
    return result


def _print_changes(changes: Sequence[SyncChange], as_json: bool) -> None:
    if as_json:
        for change in changes:
            click.echo(formatting.format_json(change))
        return
    for change in changes:
        sign, color = _SIGNS[change.step]
        place = f"  ({change.place})" if change.place else ""
        click.echo(click.style(f"{sign} {change.kind} {change.name} {change.step}", fg=color) + place)
        if change.reason:
            click.echo(f"    {plain_text.to_one_line(change.reason)}")
        for warning in change.warnings:
            click.echo(click.style(f"    {plain_text.to_one_line(warning)}", fg="yellow"))
        for line in formatting.format_differences(change.differences):
            click.echo(f"    {line}")
        for moment in change.next:
            click.echo(f"    next {formatting.format_time(moment)}")
    if not changes:
        click.echo("no changes: the database matches the code")
