"""What commands that do something to many executions share: which are meant, and telling what was done."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from jobworker.cli import arguments
from jobworker.domain.dead_letter import DEAD
from jobworker.domain.execution import FINAL, State
from jobworker.services.selection import Done, Selection
from jobworker.store.filters import Filters
from jobworker.telemetry import plain_text

_OF_EXECUTIONS: dict[str, Any] = {
    "--job": {"help": "Only those of this job."},
    "--queue": {"help": "Only those of this queue."},
    "--correlation-id": {"help": "Only those with this correlation id."},
    "--batch-id": {"help": "Only those of this batch."},
    "--created-after": {"type": arguments.Moment(), "help": "Only those accepted after this time."},
    "--created-before": {"type": arguments.Moment(), "help": "Only those accepted before this time."},
}
_OF_DEAD_LETTERS: dict[str, Any] = {
    **_OF_EXECUTIONS,
    "--fingerprint": {"help": "Only those with this kind of failure."},
    "--error-type": {"help": "Only those that ended with this exception."},
    "--ended-after": {"type": arguments.Moment(), "help": "Only those that ended after this time."},
    "--ended-before": {"type": arguments.Moment(), "help": "Only those that ended before this time."},
}


def of_unfinished(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that tell apart executions which have not ended."""
    return _with(command, _OF_EXECUTIONS, [state.value for state in State if state not in FINAL])


def of_dead_letters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that tell apart dead letters."""
    return _with(command, _OF_DEAD_LETTERS, sorted(state.value for state in DEAD))


def selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments of a command that does something: which executions, all of them, or only what would be done."""
    for decorate in (
        click.option("--dry-run", is_flag=True, help="Only say what would be done."),
        click.option("--all", "everything", is_flag=True, help="Every one; without filters this has to be said."),
        click.argument("ids", metavar="[ID]...", nargs=-1),
    ):
        command = decorate(command)
    return command


def filters(given: dict[str, Any]) -> Filters:
    """The filters that options stand for."""
    state = given.get("state")
    return Filters(**{**given, "state": State(state) if state else None})


def selection(ids: tuple[str, ...], everything: bool, dry_run: bool, given: dict[str, Any]) -> Selection:
    """What the arguments and options of a command mean."""
    return Selection(ids=ids or None, filters=filters(given), all=everything, dry_run=dry_run)


def carry_out(do: Callable[[Selection], Done], wanted: Selection, done_what: str) -> int:
    """Do it to all that are meant, request after request; the exit code."""
    refused = total = 0
    cursor: str | None = None
    while True:
        done = do(replace(wanted, cursor=cursor))
        total, refused, cursor = total + done.done, refused + done.refused, done.next
        for problem in done.problems:
            click.echo(f"{problem.id}: {plain_text.one_line(problem.message)}", err=True)
        if cursor is None:
            break
    would = "would be " if wanted.dry_run else ""
    left = f", {refused} left as they are" if refused else ""
    click.echo(f"{total} {would}{done_what}{left}")
    return 1 if refused else 0


def _with(command: Callable[..., Any], options: dict[str, Any], states: list[str]) -> Callable[..., Any]:
    of_state = click.Choice(states, case_sensitive=False)
    made = [functools.partial(click.option, name, **option) for name, option in options.items()]
    made.append(functools.partial(click.option, "--state", type=of_state, help="Only those in this state."))
    for option in reversed(made):
        command = option()(command)
    return command
