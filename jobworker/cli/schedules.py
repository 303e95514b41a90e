"""`jobworker schedules`: what happens by itself, and what code says that should."""

import datetime as dt
import zoneinfo
from collections.abc import Sequence

import click
import orjson

from jobworker import loading
from jobworker.cli import common
from jobworker.clock import SystemClock
from jobworker.declare import schedules as declarations
from jobworker.declare.schedules import Declarations
from jobworker.domain.errors import Misconfigured
from jobworker.domain.schedule import Owner
from jobworker.services import schedule_sync, schedules
from jobworker.services.schedule_sync import Change, Step
from jobworker.services.schedules import Asked, Known
from jobworker.settings import Settings
from jobworker.store.pages import MAX_LIMIT
from jobworker.store.schedule_lists import Standing

_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")

_SIGNS = {
    Step.CREATED: ("+", "green"),
    Step.RESTORED: ("+", "green"),
    Step.CHANGED: ("~", "yellow"),
    Step.RETIRED: ("-", "red"),
    Step.REMOVED: ("-", "red"),
    Step.REFUSED: ("!", "red"),
}
_COLOURS = {Standing.ACTIVE: "green", Standing.PAUSED: "yellow", Standing.DISABLED: "yellow"}


@click.group("schedules")
def command() -> None:
    """Look after what happens by itself."""


@command.command("list")
@click.option("--job", help="Only those that start this job.")
@click.option("--owner", type=click.Choice([each.value for each in Owner]), help="Only those that are edited there.")
@click.option("--state", type=click.Choice([each.value for each in Standing]), help="Only those in this state.")
@click.option("--overdue", is_flag=True, help="Only those that should have been due, and nothing came of it.")
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=50, show_default=True, help="At most so many.")
@_json
def list_(job: str | None, owner: str | None, state: str | None, overdue: bool, limit: int, as_json: bool) -> None:
    """List schedules by name."""
    asked = Asked(
        job, Owner(owner) if owner else None, Standing(state) if state else None, overdue=True if overdue else None
    )
    with common.database(common.prepare()) as database:
        found = schedules.page(database, SystemClock(), asked, limit).items
    for each in found:
        click.echo(_dumped(_shown(each)) if as_json else _line(each))


@command.command()
@click.argument("name")
@_json
def show(name: str, as_json: bool) -> None:
    """Show schedule NAME, with everything that it says."""
    with common.database(common.prepare()) as database:
        found = schedules.get(database, SystemClock(), name)
    if as_json:
        click.echo(_dumped(_shown(found)))
        return
    click.echo(_line(found))
    row = found.row
    if row.paused_at:
        until = f" until {_local(row.paused_until, row.schedule.zone)}" if row.paused_until else ""
        note = f": {row.pause_note}" if row.pause_note else ""
        click.echo(f"  paused by {row.paused_by} at {_local(row.paused_at, row.schedule.zone)}{until}{note}")
    for warning in found.warnings:
        click.echo(f"  {click.style(warning, fg='yellow')}")
    click.echo(orjson.dumps(row.spec, option=orjson.OPT_INDENT_2).decode())


@command.command()
@click.option("--exit-code", "tells", is_flag=True, help="Exit with 1 if there is a difference.")
@_json
@click.pass_context
def plan(context: click.Context, /, tells: bool, as_json: bool) -> None:
    """Show what the schedules in code would change, and change nothing."""
    settings = common.prepare()
    wanted = declared(settings)
    with common.database(settings) as database:
        changes = schedule_sync.plan(database, SystemClock(), wanted)
    _tell(changes, as_json)
    context.exit(1 if tells and changes else 0)


@command.command()
@_json
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
    if found.broken:
        raise Misconfigured("\n".join(_why(module) for module in found.broken))
    return found


def _why(broken: loading.Broken) -> str:
    """What is wrong with a module: one sentence if it is a declaration, else where the code failed."""
    last = broken.traceback.strip().splitlines()[-1]
    kind, _, told = last.partition(": ")
    return told if kind.endswith(Misconfigured.__name__) else f"{broken.module} does not import\n{broken.traceback}"


def _tell(changes: Sequence[Change], as_json: bool) -> None:
    if as_json:
        for change in changes:
            click.echo(_dumped(change))
        return
    for change in changes:
        sign, colour = _SIGNS[change.step]
        place = f"  ({change.place})" if change.place else ""
        click.echo(click.style(f"{sign} {change.kind} {change.name} {change.step}", fg=colour) + place)
        if change.reason:
            click.echo(f"    {change.reason}")
        for each in change.differences:
            click.echo(f"    {each.pointer}: {_dumped(each.before)} -> {_dumped(each.now)}")
        for moment in change.next:
            click.echo(f"    next {_told(moment)}")
    if not changes:
        click.echo("everything is as code says")


def _line(found: Known) -> str:
    row = found.row
    state = click.style(f"{found.standing.value:<9}", fg=_COLOURS.get(found.standing, "red"))
    due = _local(row.next_at, row.schedule.zone) if row.next_at else "nothing more is due"
    late = click.style("  overdue", fg="red") if found.overdue else ""
    return f"{row.name}  {state}  {due}{late}  job {row.job}  ({row.owner.value})"


def _shown(found: Known) -> dict[str, object]:
    row = found.row
    return {
        **row.spec,
        "id": row.id,
        "owner": row.owner,
        "revision": row.revision,
        "state": found.standing,
        "paused_at": row.paused_at,
        "paused_by": row.paused_by,
        "pause_note": row.pause_note,
        "paused_until": row.paused_until,
        "next_at": row.next_at,
        "overdue": found.overdue,
        "runs": row.runs,
        "failures": row.failures,
        "warnings": found.warnings,
    }


def _local(moment: dt.datetime, zone: str) -> str:
    return _told(moment.astimezone(zoneinfo.ZoneInfo(zone)))


def _told(moment: dt.datetime) -> str:
    return f"{moment:%a %Y-%m-%d %H:%M:%S} {moment.tzname()}"


def _dumped(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_UTC_Z).decode()
