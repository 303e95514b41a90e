"""`jobworker simulate`: what schedules would do."""

import collections
import contextlib
import datetime as dt
import zoneinfo
from collections.abc import Iterator, Sequence

import click

from jobworker.cli import arguments, common, telling
from jobworker.cli.schedule_plans import declared
from jobworker.domain import outages
from jobworker.domain.errors import Misconfigured
from jobworker.domain.outages import Outage
from jobworker.domain.settling import Outcome
from jobworker.services import simulation
from jobworker.services.simulation import Question, Simulated, Story
from jobworker.settings import Settings
from jobworker.telemetry import plain_text

#: More is nothing that anybody reads.
_MOST = 100_000

_COLOURS = {Outcome.FIRED: "green", Outcome.MISSED: "red", Outcome.EXHAUSTED: "red"}


class _Zone(click.ParamType[zoneinfo.ZoneInfo]):
    name = "zone"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> zoneinfo.ZoneInfo:
        try:
            return zoneinfo.ZoneInfo(str(value))
        except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError):
            self.fail(f"{value} is not an IANA time zone; an example is Europe/Berlin", param, ctx)


@click.command("simulate")
@click.option("--from", "begin", required=True, metavar="TIME", help="When it begins: 2026-03-28, 2026-03-28T22:00Z.")
@click.option("--to", "end", required=True, metavar="TIME", help="When it ends; that moment is not part of it.")
@click.option(
    "--outage", "out", multiple=True, help="Nobody looks then: 01:00-04:00 each day, or BEGIN/END. Repeatable."
)
@click.option("--zone", type=_Zone(), default="UTC", show_default=True, help="Of times without an offset.")
@click.option("--schedule", "names", multiple=True, help="Only this one; more than once: only these.")
@click.option(
    "--duration", "takes", multiple=True, help="So long an execution takes (0); NAME=SECONDS: of that schedule."
)
@click.option("--code", is_flag=True, help="What the package of schedules here declares, instead of what is in force.")
@click.option("--limit", type=click.IntRange(1, _MOST), default=1000, show_default=True, help="At most so many lines.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(
    begin: str,
    end: str,
    out: tuple[str, ...],
    zone: zoneinfo.ZoneInfo,
    names: tuple[str, ...],
    takes: tuple[str, ...],
    code: bool,
    **shown: int | bool,
) -> None:
    """Show what schedules would do in a span of time, by running the code that decides it on virtual time."""
    settings = common.prepare()
    question = _question(begin, end, out, zone, takes, int(shown["limit"]))
    story = _of_code(settings, question, names or None) if code else _in_force(settings, question, names or None)
    for each in story.occurrences:
        click.echo(telling.json(each) if shown["as_json"] else _line(each))
    for line in _closing(story, question):
        click.echo(line, err=bool(shown["as_json"]))


def _in_force(settings: Settings, question: Question, names: Sequence[str] | None) -> Story:
    with common.database(settings) as database:
        return simulation.of_database(database, question, names)


def _of_code(settings: Settings, question: Question, names: Sequence[str] | None) -> Story:
    """Beside the database, if one can be used: whoever writes schedules need not have one yet."""
    found = declared(settings)
    with contextlib.ExitStack() as opened:
        try:
            database = opened.enter_context(common.database(settings))
        except Misconfigured as error:
            click.echo(f"without a database: {error}", err=True)
            database = None
        return simulation.of_code(found, question, names, database)


def _question(
    begin: str, end: str, out: Sequence[str], zone: zoneinfo.ZoneInfo, takes: Sequence[str], limit: int
) -> Question:
    first, last = _moment(begin, "--from", zone), _moment(end, "--to", zone)
    if last <= first:
        raise click.BadParameter(f"{end} must be later than {begin}", param_hint="--to")
    found: list[Outage] = []
    for each in out:
        try:
            found += outages.parse(each, first, last, zone)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--outage") from None
    durations = dict(_duration(each) for each in takes)
    return Question(first, last, found, durations.pop("", 0.0), durations, limit)


def _moment(text: str, option: str, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    try:
        return outages.moment(text, zone)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def _duration(text: str) -> tuple[str, float]:
    name, found, seconds = text.rpartition("=")
    if found and not name:
        raise click.BadParameter(f"{text} must look like NAME=SECONDS", param_hint="--duration")
    takes = arguments.Duration().convert(seconds, None, None)
    if takes < 0:
        raise click.BadParameter(f"{text} must not be negative", param_hint="--duration")
    return name, takes


def _line(each: Simulated) -> str:
    due = f"{telling.moment(each.scheduled_for):<28}"
    outcome = click.style(f"{each.outcome:<16}", fg=_COLOURS.get(each.outcome, "yellow"))
    return f"{due}  {each.schedule}  {outcome}  {'; '.join(_told(each))}".rstrip()


def _told(each: Simulated) -> Iterator[str]:
    if each.started_at is not None:
        ended = f" to {_near(each.ended_at, each.started_at)}" if each.ended_at else ""
        cancelled = ", cancelled" if each.state == "Cancelled" else ""
        yield f"runs {_near(each.started_at, each.scheduled_for)}{ended}{cancelled}"
    elif each.state is not None:
        yield each.state.value
    if each.reason:
        yield plain_text.one_line(each.reason)


def _near(moment: dt.datetime, other: dt.datetime) -> str:
    """The time, with its date if that is another one."""
    return f"{moment:%H:%M:%S}" if moment.date() == other.date() else f"{moment:%Y-%m-%d %H:%M:%S}"


def _closing(story: Story, question: Question) -> Iterator[str]:
    if story.assumed_jobs:
        yield f"not known, taken as jobs that accept every parameter: {', '.join(story.assumed_jobs)}"
    for name, since in story.unevaluated.items():
        yield f"{name}: nobody looked any more at what was due since {since:%Y-%m-%dT%H:%M:%SZ}"
    if story.stopped_at is not None:
        yield f"stopped at {story.stopped_at:%Y-%m-%dT%H:%M:%SZ}: more than {question.limit} occurrences; see --limit"
    counted = collections.Counter(each.outcome.value for each in story.occurrences)
    told = ", ".join(f"{number} {outcome}" for outcome, number in counted.most_common())
    yield f"{len(story.occurrences)} occurrences{f': {told}' if told else ''}"
