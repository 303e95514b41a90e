"""`jobworker schedules`: schedules and their occurrences."""

import datetime as dt
from collections.abc import Iterator, Sequence

import click

from jobworker.cli import arguments, common, formatting, schedule_sync
from jobworker.clock import SystemClock
from jobworker.domain.schedules import description
from jobworker.domain.schedules.schedule import MissedOccurrencePolicy, OverlapPolicy, ScheduleOwner
from jobworker.domain.schedules.state import ScheduleStatus
from jobworker.services.schedules import occurrences, preview, schedules
from jobworker.services.schedules.preview import PreviewRequest as Wanted
from jobworker.services.schedules.schedules import ScheduleCriteria, ScheduleView
from jobworker.services.schedules.upcoming import ExpectedOccurrence, ExpectedOutcome
from jobworker.store.pagination import MAX_LIMIT
from jobworker.store.schedules.occurrence_rows import OccurrenceFilters
from jobworker.telemetry import plain_text
from jobworker.transport.notifier import Notifier

#: Number of upcoming, and of recorded, occurrences that are shown with a schedule.
_NEARBY_OCCURRENCES = 5

_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")

_COLORS = {ScheduleStatus.ACTIVE: "green", ScheduleStatus.PAUSED: "yellow", ScheduleStatus.DISABLED: "yellow"}


@click.group("schedules")
def command() -> None:
    """Manage schedules."""


command.add_command(schedule_sync.plan)
command.add_command(schedule_sync.apply)


@command.command("list")
@click.option("--job", help="Only schedules of this job.")
@click.option(
    "--owner", type=click.Choice([owner.value for owner in ScheduleOwner]), help="Only schedules with this owner."
)
@click.option(
    "--state", type=click.Choice([status.value for status in ScheduleStatus]), help="Only schedules in this state."
)
@click.option("--overdue", is_flag=True, help="Only overdue schedules: due, but not evaluated.")
@click.option(
    "--limit", type=click.IntRange(1, MAX_LIMIT), default=50, show_default=True, help="Maximum number of schedules."
)
@_json_option
def list_(job: str | None, owner: str | None, state: str | None, overdue: bool, limit: int, as_json: bool) -> None:
    """List schedules by name."""
    filters = ScheduleCriteria(
        job,
        ScheduleOwner(owner) if owner else None,
        ScheduleStatus(state) if state else None,
        overdue=True if overdue else None,
    )
    with common.open_database(common.start_command()) as database:
        rows = schedules.list_page(database, SystemClock(), filters, limit).items
    for row in rows:
        click.echo(formatting.format_json(_schedule_to_json(row)) if as_json else _format_schedule(row))


@command.command()
@click.argument("name")
@_json_option
def show(name: str, as_json: bool) -> None:
    """Show schedule NAME: its definition, its latest occurrences, and its next ones."""
    clock = SystemClock()
    with common.open_database(common.start_command()) as database:
        schedule = schedules.get(database, clock, name)
        if as_json:
            click.echo(formatting.format_json(_schedule_to_json(schedule)))
            return
        upcoming = occurrences.list_upcoming(database, name, OccurrenceFilters(clock.now()), _NEARBY_OCCURRENCES)
        _, recorded = occurrences.list_recorded(database, name, OccurrenceFilters(), _NEARBY_OCCURRENCES)
    click.echo(_format_schedule(schedule))
    click.echo(f"  {description.describe_schedule(schedule.row.schedule)}")
    for warning in schedule.warnings:
        click.echo(f"  {click.style(plain_text.to_one_line(warning), fg='yellow')}")
    zone = schedule.row.schedule.zone
    for occurrence in reversed(recorded.items):
        reason = f"  {plain_text.to_one_line(occurrence.reason)}" if occurrence.reason else ""
        click.echo(f"  {formatting.format_time(occurrence.scheduled_for, zone)}  {occurrence.outcome}{reason}")
    for upcoming_occurrence in upcoming:
        click.echo(f"  {_format_upcoming(upcoming_occurrence)}")
    click.echo(formatting.format_json(schedule.row.spec, indented=True))


@command.command("preview")
@click.argument("document", metavar="JSON")
@click.option("--zone", help="Time zone, if JSON contains only a rule.")
@click.option("--from", "begin", type=arguments.DateTimeType(), help="Show occurrences after this time (now).")
@click.option(
    "--count",
    type=click.IntRange(1, preview.MAX_OCCURRENCES),
    default=10,
    show_default=True,
    help="Number of occurrences.",
)
@click.option("--saved", metavar="NAME", help="Show the differences from this schedule, too.")
@_json_option
def preview_(
    document: str, zone: str | None, begin: dt.datetime | None, count: int, saved: str | None, as_json: bool
) -> None:
    """Show when an unsaved schedule would be due; JSON contains its fields, or a rule."""
    value = arguments.parse_object(document, "JSON")
    fields = {"rule": value, **({"zone": zone} if zone else {})} if "kind" in value else value
    with common.open_database(common.start_command()) as database:
        result = preview.preview_schedule(database, SystemClock(), Wanted(fields, count, begin, saved=saved))
    if as_json:
        click.echo(formatting.format_json(result))
        return
    click.echo(result.in_words)
    for warning in result.warnings:
        click.echo(click.style(plain_text.to_one_line(warning), fg="yellow"))
    for occurrence in result.moments:
        click.echo(f"  {_format_upcoming(occurrence)}")
    if result.compared is not None:
        for line in formatting.format_differences(result.compared.fields):
            click.echo(f"  {line}")
        for sign, moments in (("+", result.compared.comes), ("-", result.compared.goes)):
            for moment in moments:
                click.echo(f"  {sign} {formatting.format_time(moment, result.schedule['zone'])}")


@command.command()
@click.argument("name")
@click.option("--note", help="Reason, which is shown with the schedule.")
@click.option("--until", type=arguments.DateTimeType(), help="Time at which it is resumed: 2030-01-31T12:00:00Z.")
def pause(name: str, note: str | None, until: dt.datetime | None) -> None:
    """Pause schedule NAME: it starts nothing until it is resumed."""
    with common.open_database(common.start_command()) as database:
        click.echo(_format_schedule(schedules.pause(database, SystemClock(), name, note, until, common.get_actor())))


@command.command()
@click.argument("name")
@click.option(
    "--on-resume",
    "policy",
    type=click.Choice([policy.value for policy in MissedOccurrencePolicy]),
    help="Policy for the occurrences of the pause, instead of the schedule's own.",
)
def resume(name: str, policy: str | None) -> None:
    """Resume schedule NAME."""
    settings = common.start_command()
    with common.open_database(settings) as database:
        schedule = schedules.resume(
            database, SystemClock(), name, MissedOccurrencePolicy(policy) if policy else None, common.get_actor()
        )
    Notifier(settings.redis_url).notify()
    click.echo(_format_schedule(schedule))


@command.command()
@click.argument("name")
@click.option(
    "--overlap",
    type=click.Choice([policy.value for policy in OverlapPolicy]),
    help="Overlap policy to use instead of the schedule's own.",
)
@click.pass_context
def fire(context: click.Context, /, name: str, overlap: str | None) -> None:
    """Fire schedule NAME now and print the id of its execution; exit code 1 if its overlap policy prevents that."""
    settings = common.start_command()
    with common.open_database(settings) as database:
        fired = occurrences.fire(
            database, SystemClock(), name, OverlapPolicy(overlap) if overlap else None, common.get_actor()
        )
    if fired.execution is None:
        click.echo(f"{fired.occurrence.outcome}: {plain_text.to_one_line(fired.occurrence.reason or '')}", err=True)
        context.exit(1)
    Notifier(settings.redis_url).notify()
    click.echo(fired.execution.id)


def _format_schedule(schedule: ScheduleView) -> str:
    row = schedule.row
    state = click.style(f"{schedule.status.value:<9}", fg=_COLORS.get(schedule.status, "red"))
    return f"{row.name}  {state}  {'  '.join(_describe_status(schedule))}  job {row.job}  ({row.owner.value})"


def _describe_status(schedule: ScheduleView) -> Iterator[str]:
    row, zone = schedule.row, schedule.row.schedule.zone
    yield formatting.format_time(schedule.next_at, zone) if schedule.next_at else "nothing more is due"
    if schedule.overdue:
        yield click.style("overdue", fg="red")
    if row.paused_at:
        until = f" until {formatting.format_time(row.paused_until, zone)}" if row.paused_until else ""
        note = f": {plain_text.to_one_line(row.pause_note)}" if row.pause_note else ""
        yield f"paused by {row.paused_by} since {formatting.format_time(row.paused_at, zone)}{until}{note}"


def _format_upcoming(occurrence: ExpectedOccurrence) -> str:
    details: Sequence[str] = [occurrence.outcome.value] if occurrence.outcome is not ExpectedOutcome.FIRE else []
    details = [*details, *([occurrence.reason] if occurrence.reason else []), *occurrence.notes]
    return "  ".join([formatting.format_time(occurrence.local), plain_text.to_one_line("; ".join(details))]).rstrip()


def _schedule_to_json(schedule: ScheduleView) -> dict[str, object]:
    row = schedule.row
    return {
        **row.spec,
        "id": row.id,
        "owner": row.owner,
        "revision": row.revision,
        "state": schedule.status,
        "paused_at": row.paused_at,
        "paused_by": row.paused_by,
        "pause_note": row.pause_note,
        "paused_until": row.paused_until,
        "next_at": schedule.next_at,
        "overdue": schedule.overdue,
        "runs": row.runs,
        "failures": row.failures,
        "warnings": schedule.warnings,
    }
