"""`jobworker submit`: have a job run."""

import datetime as dt

import click

from jobworker.cli import arguments, common, formatting
from jobworker.clock import SystemClock
from jobworker.domain.jobs.admission import Submission
from jobworker.services import jobs
from jobworker.services.submissions import submission
from jobworker.transport.notifier import Notifier


@click.command("submit")
@click.argument("name")
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--follow", is_flag=True, help="Show what happens until it has ended; exit code 0 if it succeeded.")
@click.option("--queue", help="Instead of the job's own queue: one that exists.")
@click.option("--priority", type=int, help="0 to 9, 9 is the most urgent.")
@click.option(
    "--delay", type=arguments.DurationType(), help="Run it after so long: seconds, or ISO 8601 such as PT10M."
)
@click.option("--due-at", type=arguments.DateTimeType(), help="Run it then: 2030-01-31T12:00:00Z.")
@click.option(
    "--expires", type=arguments.DurationType(), help="Start it within so long after it is due, or not at all."
)
@click.option("--after", multiple=True, help="When this execution (its id) has succeeded; more than once: all of them.")
@click.option("--correlation-id", help="To find it again by.")
@click.option("--json", "document", help="Parameters as a JSON object; KEY=VALUE pairs come on top.")
@click.pass_context
def command(
    context: click.Context,
    /,
    name: str,
    pairs: tuple[str, ...],
    follow: bool,
    document: str | None,
    after: tuple[str, ...],
    **options: str | int | float | dt.datetime | None,
) -> None:
    """Submit job NAME and print the id of its execution."""
    settings = common.start_command()
    clock = SystemClock()
    with common.open_database(settings) as database:
        accepted = jobs.get(database, name).parameters
        values = arguments.parse_parameters(pairs, document, accepted)
        request = Submission(job=name, parameters=values, depends_on=after, **options)  # type: ignore[arg-type]
        execution, _ = submission.submit(database, clock, request, common.get_actor())
        Notifier(settings.redis_url).notify()
        click.echo(execution.id)
        if follow:
            context.exit(formatting.follow_execution(database, clock, execution.id))
