"""`jobworker submit`: submit a job."""

import datetime as dt

import click

from jobworker.cli import arguments, common, formatting
from jobworker.clock import SystemClock
from jobworker.domain.submissions.submission import Submission
from jobworker.services.jobs import jobs
from jobworker.services.submissions import submission
from jobworker.transport.notifier import Notifier


@click.command("submit")
@click.argument("name")
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--follow", is_flag=True, help="Print all changes until the execution has ended; exit code 0 if it succeeded."
)
@click.option("--queue", help="Queue to use instead of the job's own; it must exist.")
@click.option("--priority", type=int, help="Priority from 0 to 9; 9 is the most urgent.")
@click.option(
    "--delay", type=arguments.DurationType(), help="Delay before it is due: seconds, or ISO 8601 such as PT10M."
)
@click.option("--due-at", type=arguments.DateTimeType(), help="Time at which it is due: 2030-01-31T12:00:00Z.")
@click.option(
    "--expires", type=arguments.DurationType(), help="Maximum time from due to started; after that it does not start."
)
@click.option("--after", multiple=True, help="Id of an execution that must succeed first. Repeatable.")
@click.option("--correlation-id", help="Correlation id, by which the execution can be found.")
@click.option("--json", "document", help="Parameters as a JSON object; KEY=VALUE pairs take precedence.")
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
