"""`jobworker simulate`: the outcomes of schedules on virtual time."""

import collections
import contextlib
import datetime as dt
import zoneinfo
from collections.abc import Iterator, Sequence

import click

from jobworker.cli import arguments, common, formatting
from jobworker.cli.schedule_sync import require_declarations
from jobworker.domain.errors import ConfigurationError
from jobworker.domain.schedules import time_windows
from jobworker.domain.schedules.evaluation import OccurrenceOutcome
from jobworker.domain.schedules.time_windows import Outage
from jobworker.services.schedules import simulation
from jobworker.services.schedules.simulation import SimulatedOccurrence, SimulationOptions, SimulationResult
from jobworker.settings import Settings
from jobworker.telemetry import plain_text

#: Maximum of `--limit`, because longer output is not readable.
_MAX_LIMIT = 100_000

_COLORS = {OccurrenceOutcome.FIRED: "green", OccurrenceOutcome.MISSED: "red", OccurrenceOutcome.EXHAUSTED: "red"}


class _TimeZoneType(click.ParamType[zoneinfo.ZoneInfo]):
    name = "zone"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> zoneinfo.ZoneInfo:
        try:
            return zoneinfo.ZoneInfo(str(value))
        except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError):
            self.fail(f"{value} is not an IANA time zone; an example is Europe/Berlin", param, ctx)


@click.command("simulate")
@click.option(
    "--from", "begin", required=True, metavar="TIME", help="Begin of the time span: 2026-03-28, 2026-03-28T22:00Z."
)
@click.option("--to", "end", required=True, metavar="TIME", help="End of the time span, exclusive.")
@click.option(
    "--outage",
    "outage_texts",
    multiple=True,
    help="Time without evaluation: 01:00-04:00 each day, or BEGIN/END. Repeatable.",
)
@click.option(
    "--zone", type=_TimeZoneType(), default="UTC", show_default=True, help="Time zone of times without an offset."
)
@click.option("--schedule", "names", multiple=True, help="Only this schedule. Repeatable.")
@click.option(
    "--duration",
    "duration_texts",
    multiple=True,
    help="Duration of an execution (0), or NAME=SECONDS for one schedule. Repeatable.",
)
@click.option(
    "--code", is_flag=True, help="Simulate the schedules declared in code here, instead of those in the database."
)
@click.option(
    "--limit",
    type=click.IntRange(1, _MAX_LIMIT),
    default=1000,
    show_default=True,
    help="Maximum number of occurrences.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def command(
    begin: str,
    end: str,
    outage_texts: tuple[str, ...],
    zone: zoneinfo.ZoneInfo,
    names: tuple[str, ...],
    duration_texts: tuple[str, ...],
    code: bool,
    **shown: int | bool,
) -> None:
    """Show the outcomes of schedules in a time span, by running the evaluation code on virtual time."""
    settings = common.start_command()
    question = _make_question(begin, end, outage_texts, zone, duration_texts, int(shown["limit"]))
    result = (
        _simulate_code(settings, question, names or None)
        if code
        else _simulate_database(settings, question, names or None)
    )
    for occurrence in result.occurrences:
        click.echo(formatting.format_json(occurrence) if shown["as_json"] else _format_occurrence(occurrence))
    for line in _summarize(result, question):
        click.echo(line, err=bool(shown["as_json"]))


def _simulate_database(
    settings: Settings, question: SimulationOptions, names: Sequence[str] | None
) -> SimulationResult:
    with common.open_database(settings) as database:
        return simulation.simulate_database(database, question, names)


def _simulate_code(settings: Settings, question: SimulationOptions, names: Sequence[str] | None) -> SimulationResult:
    """Simulate declared schedules, with the database if there is one; authors of schedules may have none yet."""
    declarations = require_declarations(settings)
    with contextlib.ExitStack() as stack:
        try:
            database = stack.enter_context(common.open_database(settings))
        except ConfigurationError as error:
            click.echo(f"without a database: {error}", err=True)
            database = None
        return simulation.simulate_code(declarations, question, names, database)


def _make_question(
    begin: str,
    end: str,
    outage_texts: Sequence[str],
    zone: zoneinfo.ZoneInfo,
    duration_texts: Sequence[str],
    limit: int,
) -> SimulationOptions:
    first, last = _parse_time(begin, "--from", zone), _parse_time(end, "--to", zone)
    if last <= first:
        raise click.BadParameter(f"{end} must be later than {begin}", param_hint="--to")
    parsed_outages: list[Outage] = []
    for text in outage_texts:
        try:
            parsed_outages += time_windows.parse_outages(text, first, last, zone)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--outage") from None
    durations = dict(_parse_duration(text) for text in duration_texts)
    return SimulationOptions(first, last, parsed_outages, durations.pop("", 0.0), durations, limit)


def _parse_time(text: str, option: str, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    try:
        return time_windows.parse_moment(text, zone)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def _parse_duration(text: str) -> tuple[str, float]:
    name, separator, seconds = text.rpartition("=")
    if separator and not name:
        raise click.BadParameter(f"{text} must look like NAME=SECONDS", param_hint="--duration")
    duration = arguments.DurationType().convert(seconds, None, None)
    if duration < 0:
        raise click.BadParameter(f"{text} must not be negative", param_hint="--duration")
    return name, duration


def _format_occurrence(occurrence: SimulatedOccurrence) -> str:
    due = f"{formatting.format_time(occurrence.scheduled_for):<28}"
    outcome = click.style(f"{occurrence.outcome:<16}", fg=_COLORS.get(occurrence.outcome, "yellow"))
    return f"{due}  {occurrence.schedule}  {outcome}  {'; '.join(_describe_run(occurrence))}".rstrip()


def _describe_run(occurrence: SimulatedOccurrence) -> Iterator[str]:
    if occurrence.started_at is not None:
        ended = f" to {_format_time_near(occurrence.ended_at, occurrence.started_at)}" if occurrence.ended_at else ""
        cancelled = ", cancelled" if occurrence.state == "Cancelled" else ""
        yield f"runs {_format_time_near(occurrence.started_at, occurrence.scheduled_for)}{ended}{cancelled}"
    elif occurrence.state is not None:
        yield occurrence.state.value
    if occurrence.reason:
        yield plain_text.to_one_line(occurrence.reason)


def _format_time_near(time: dt.datetime, reference: dt.datetime) -> str:
    """Return the time, with its date if the date differs from that of `reference`."""
    return f"{time:%H:%M:%S}" if time.date() == reference.date() else f"{time:%Y-%m-%d %H:%M:%S}"


def _summarize(result: SimulationResult, question: SimulationOptions) -> Iterator[str]:
    if result.assumed_jobs:
        yield f"unknown jobs, assumed to accept every parameter: {', '.join(result.assumed_jobs)}"
    for name, since in result.unevaluated.items():
        yield f"{name}: not evaluated since {since:%Y-%m-%dT%H:%M:%SZ}, although occurrences were due"
    if result.stopped_at is not None:
        yield f"stopped at {result.stopped_at:%Y-%m-%dT%H:%M:%SZ}: more than {question.limit} occurrences; see --limit"
    counted = collections.Counter(occurrence.outcome.value for occurrence in result.occurrences)
    summary = ", ".join(f"{number} {outcome}" for outcome, number in counted.most_common())
    yield f"{len(result.occurrences)} occurrences{f': {summary}' if summary else ''}"
