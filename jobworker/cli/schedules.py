"""`jobworker schedules`: what happens by itself."""

import datetime as dt
from collections.abc import Iterator, Sequence

import click

from jobworker.cli import arguments, common, schedule_plans, telling
from jobworker.clock import SystemClock
from jobworker.domain import describing
from jobworker.domain.schedule import Missed, Overlap, Owner
from jobworker.services import occurrences, preview, schedules
from jobworker.services.coming import Coming, Expected
from jobworker.services.preview import Asked as Wanted
from jobworker.services.schedules import Asked, Known
from jobworker.store.ledger import Range
from jobworker.store.pages import MAX_LIMIT
from jobworker.store.schedule_lists import Standing
from jobworker.telemetry import plain_text
from jobworker.transport.wake import Waker

#: So many of the moments ahead, and of those behind, are shown with a schedule.
_AROUND = 5

_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")

_COLOURS = {Standing.ACTIVE: "green", Standing.PAUSED: "yellow", Standing.DISABLED: "yellow"}


@click.group("schedules")
def command() -> None:
    """Look after what happens by itself."""


command.add_command(schedule_plans.plan)
command.add_command(schedule_plans.apply)


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
        click.echo(telling.json(_shown(each)) if as_json else _line(each))


@command.command()
@click.argument("name")
@_json
def show(name: str, as_json: bool) -> None:
    """Show schedule NAME: what it says, what came of it last, and what is ahead."""
    clock = SystemClock()
    with common.database(common.prepare()) as database:
        found = schedules.get(database, clock, name)
        if as_json:
            click.echo(telling.json(_shown(found)))
            return
        ahead = occurrences.ahead(database, name, Range(clock.now()), _AROUND)
        _, behind = occurrences.past(database, name, Range(), _AROUND)
    click.echo(_line(found))
    click.echo(f"  {describing.of_schedule(found.row.schedule)}")
    for warning in found.warnings:
        click.echo(f"  {click.style(plain_text.one_line(warning), fg='yellow')}")
    zone = found.row.schedule.zone
    for each in reversed(behind.items):
        reason = f"  {plain_text.one_line(each.reason)}" if each.reason else ""
        click.echo(f"  {telling.moment(each.scheduled_for, zone)}  {each.outcome}{reason}")
    for coming in ahead:
        click.echo(f"  {_coming(coming)}")
    click.echo(telling.json(found.row.spec, indented=True))


@command.command("preview")
@click.argument("described", metavar="JSON")
@click.option("--zone", help="The time zone, if JSON is a rule alone.")
@click.option("--from", "begin", type=arguments.Moment(), help="What is due after this time (now).")
@click.option("--count", type=click.IntRange(1, preview.MOST), default=10, show_default=True, help="So many moments.")
@click.option("--saved", metavar="NAME", help="Show the difference to this schedule, too.")
@_json
def preview_(
    described: str, zone: str | None, begin: dt.datetime | None, count: int, saved: str | None, as_json: bool
) -> None:
    """Show when a schedule would be due that is not saved: JSON is its fields, or a rule."""
    given = arguments.object_of(described, "JSON")
    fields = {"rule": given, **({"zone": zone} if zone else {})} if "kind" in given else given
    with common.database(common.prepare()) as database:
        found = preview.preview(database, SystemClock(), Wanted(fields, count, begin, saved=saved))
    if as_json:
        click.echo(telling.json(found))
        return
    click.echo(found.in_words)
    for warning in found.warnings:
        click.echo(click.style(plain_text.one_line(warning), fg="yellow"))
    for each in found.moments:
        click.echo(f"  {_coming(each)}")
    if found.compared is not None:
        for line in telling.differences(found.compared.fields):
            click.echo(f"  {line}")
        for sign, moments in (("+", found.compared.comes), ("-", found.compared.goes)):
            for moment in moments:
                click.echo(f"  {sign} {telling.moment(moment, found.schedule['zone'])}")


@command.command()
@click.argument("name")
@click.option("--note", help="Why: it is shown with the schedule.")
@click.option("--until", type=arguments.Moment(), help="It is resumed then: 2030-01-31T12:00:00Z.")
def pause(name: str, note: str | None, until: dt.datetime | None) -> None:
    """Let schedule NAME start nothing until it is resumed."""
    with common.database(common.prepare()) as database:
        click.echo(_line(schedules.pause(database, SystemClock(), name, note, until, common.actor())))


@command.command()
@click.argument("name")
@click.option(
    "--on-resume",
    "policy",
    type=click.Choice([each.value for each in Missed]),
    help="What becomes of the occurrences of the pause, instead of what the schedule says.",
)
def resume(name: str, policy: str | None) -> None:
    """Let schedule NAME start its job again."""
    settings = common.prepare()
    with common.database(settings) as database:
        found = schedules.resume(database, SystemClock(), name, Missed(policy) if policy else None, common.actor())
    Waker(settings.redis_url).notify()
    click.echo(_line(found))


@command.command()
@click.argument("name")
@click.option(
    "--overlap",
    type=click.Choice([each.value for each in Overlap]),
    help="Instead of what the schedule says about executions that have not ended.",
)
@click.pass_context
def fire(context: click.Context, /, name: str, overlap: str | None) -> None:
    """Let schedule NAME be due now and print the id of its execution; exit code 1 if its overlap policy says no."""
    settings = common.prepare()
    with common.database(settings) as database:
        fired = occurrences.fire(database, SystemClock(), name, Overlap(overlap) if overlap else None, common.actor())
    if fired.execution is None:
        click.echo(f"{fired.occurrence.outcome}: {plain_text.one_line(fired.occurrence.reason or '')}", err=True)
        context.exit(1)
    Waker(settings.redis_url).notify()
    click.echo(fired.execution.id)


def _line(found: Known) -> str:
    row = found.row
    state = click.style(f"{found.standing.value:<9}", fg=_COLOURS.get(found.standing, "red"))
    return f"{row.name}  {state}  {'  '.join(_standing(found))}  job {row.job}  ({row.owner.value})"


def _standing(found: Known) -> Iterator[str]:
    row, zone = found.row, found.row.schedule.zone
    yield telling.moment(found.next_at, zone) if found.next_at else "nothing more is due"
    if found.overdue:
        yield click.style("overdue", fg="red")
    if row.paused_at:
        until = f" until {telling.moment(row.paused_until, zone)}" if row.paused_until else ""
        note = f": {plain_text.one_line(row.pause_note)}" if row.pause_note else ""
        yield f"paused by {row.paused_by} since {telling.moment(row.paused_at, zone)}{until}{note}"


def _coming(each: Coming) -> str:
    told: Sequence[str] = [each.outcome.value] if each.outcome is not Expected.FIRE else []
    told = [*told, *([each.reason] if each.reason else []), *each.notes]
    return "  ".join([telling.moment(each.local), plain_text.one_line("; ".join(told))]).rstrip()


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
        "next_at": found.next_at,
        "overdue": found.overdue,
        "runs": row.runs,
        "failures": row.failures,
        "warnings": found.warnings,
    }
