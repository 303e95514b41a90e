"""Shared parts of commands for many executions: selecting them, and reporting the results."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from jobworker.cli import arguments
from jobworker.domain.executions.dead_letter import DEAD_LETTER_STATES
from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.services.bulk.actions import BulkResult, Selection
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.telemetry import plain_text

_EXECUTION_OPTIONS: dict[str, Any] = {
    "--job": {"help": "Only executions of this job."},
    "--queue": {"help": "Only executions of this queue."},
    "--correlation-id": {"help": "Only executions with this correlation id."},
    "--batch-id": {"help": "Only executions of this batch."},
    "--created-after": {"type": arguments.DateTimeType(), "help": "Only executions accepted after this time."},
    "--created-before": {"type": arguments.DateTimeType(), "help": "Only executions accepted before this time."},
}
_DEAD_LETTER_OPTIONS: dict[str, Any] = {
    **_EXECUTION_OPTIONS,
    "--fingerprint": {"help": "Only executions with this kind of failure."},
    "--error-type": {"help": "Only executions that ended with this exception."},
    "--ended-after": {"type": arguments.DateTimeType(), "help": "Only executions that ended after this time."},
    "--ended-before": {"type": arguments.DateTimeType(), "help": "Only executions that ended before this time."},
}


def add_unfinished_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select executions which have not ended."""
    return _add_options(
        command, _EXECUTION_OPTIONS, [state.value for state in ExecutionState if state not in FINAL_STATES]
    )


def add_dead_letter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select dead letters."""
    return _add_options(command, _DEAD_LETTER_OPTIONS, sorted(state.value for state in DEAD_LETTER_STATES))


def add_selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments of a bulk command: the ids of executions, all of them, or a dry run."""
    for decorate in (
        click.option("--dry-run", is_flag=True, help="Only print what would be done."),
        click.option(
            "--all", "everything", is_flag=True, help="All executions; required if neither ids nor filters are given."
        ),
        click.argument("ids", metavar="[ID]...", nargs=-1),
    ):
        command = decorate(command)
    return command


def make_filters(options: dict[str, Any]) -> ExecutionFilters:
    """Return the filters of these options."""
    state = options.get("state")
    return ExecutionFilters(**{**options, "state": ExecutionState(state) if state else None})


def make_selection(ids: tuple[str, ...], everything: bool, dry_run: bool, options: dict[str, Any]) -> Selection:
    """Return the selection of a command's arguments and options."""
    return Selection(ids=ids or None, filters=make_filters(options), all=everything, dry_run=dry_run)


def run_bulk_action(action: Callable[[Selection], BulkResult], selection: Selection, past_participle: str) -> int:
    """Run the action for the whole selection, chunk by chunk; return the exit code."""
    refused = total = 0
    cursor: str | None = None
    while True:
        result = action(replace(selection, cursor=cursor))
        total, refused, cursor = total + result.done, refused + result.refused, result.next
        for problem in result.problems:
            click.echo(f"{problem.id}: {plain_text.to_one_line(problem.message)}", err=True)
        if cursor is None:
            break
    would = "would be " if selection.dry_run else ""
    refused_note = f", {refused} left as they are" if refused else ""
    click.echo(f"{total} {would}{past_participle}{refused_note}")
    return 1 if refused else 0


def _add_options(command: Callable[..., Any], options: dict[str, Any], states: list[str]) -> Callable[..., Any]:
    state_choice = click.Choice(states, case_sensitive=False)
    decorators = [functools.partial(click.option, name, **option) for name, option in options.items()]
    decorators.append(
        functools.partial(click.option, "--state", type=state_choice, help="Only executions in this state.")
    )
    for option in reversed(decorators):
        command = option()(command)
    return command
