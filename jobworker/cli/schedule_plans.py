"""`jobworker schedules plan` and `apply`: what code declares, beside what is in force."""

from collections.abc import Sequence

import click

from jobworker import loading
from jobworker.cli import common, telling
from jobworker.clock import SystemClock
from jobworker.declare import schedules as declarations
from jobworker.declare.schedules import Declarations
from jobworker.domain.errors import Misconfigured
from jobworker.services import schedule_sync
from jobworker.services.schedule_sync import Change, Step
from jobworker.settings import Settings
from jobworker.telemetry import plain_text

_SIGNS = {
    Step.CREATED: ("+", "green"),
    Step.RESTORED: ("+", "green"),
    Step.CHANGED: ("~", "yellow"),
    Step.RETIRED: ("-", "red"),
    Step.REMOVED: ("-", "red"),
    Step.REFUSED: ("!", "red"),
}


@click.command()
@click.option("--exit-code", "tells", is_flag=True, help="Exit with 1 if there is a difference.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def plan(context: click.Context, /, tells: bool, as_json: bool) -> None:
    """Show what the schedules in code would change, and change nothing."""
    settings = common.prepare()
    wanted = declared(settings)
    with common.database(settings) as database:
        changes = schedule_sync.plan(database, SystemClock(), wanted)
    _tell(changes, as_json)
    context.exit(1 if tells and changes else 0)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def apply(context: click.Context, /, as_json: bool) -> None:
    """Make schedules as code says, as the relay does when it starts; exit code 1 if some of them cannot be."""
    settings = common.prepare()
    wanted = declared(settings)
    with common.database(settings) as database:
        changes = schedule_sync.apply(database, SystemClock(), wanted, common.actor())
    _tell(changes, as_json)
    context.exit(1 if any(change.step is Step.REFUSED for change in changes) else 0)


def declared(settings: Settings) -> Declarations:
    """What the code here declares; raises `Misconfigured` unless all of it can be read."""
    found = declarations.read(settings.schedules)
    if found.broken_modules:
        raise Misconfigured("\n".join(_why(module) for module in found.broken_modules))
    return found


def _why(broken: loading.Broken) -> str:
    """What is wrong with a module: one sentence if it is a declaration, else where the code failed."""
    kind, _, told = broken.error.partition(": ")
    if kind.endswith(Misconfigured.__name__):
        return told
    return f"{broken} ({broken.module} does not import)"


def _tell(changes: Sequence[Change], as_json: bool) -> None:
    if as_json:
        for change in changes:
            click.echo(telling.json(change))
        return
    for change in changes:
        sign, colour = _SIGNS[change.step]
        place = f"  ({change.place})" if change.place else ""
        click.echo(click.style(f"{sign} {change.kind} {change.name} {change.step}", fg=colour) + place)
        if change.reason:
            click.echo(f"    {plain_text.one_line(change.reason)}")
        for warning in change.warnings:
            click.echo(click.style(f"    {plain_text.one_line(warning)}", fg="yellow"))
        for line in telling.differences(change.differences):
            click.echo(f"    {line}")
        for moment in change.next:
            click.echo(f"    next {telling.moment(moment)}")
    if not changes:
        click.echo("everything is as code says")
