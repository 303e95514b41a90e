"""Formatting of executions, times and differences for a terminal."""

import datetime as dt
import threading
import zoneinfo
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click
import orjson

from jobworker.clock import Clock
from jobworker.domain.executions.comparison import Difference
from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.services.executions import execution_stream, executions
from jobworker.services.executions.execution_stream import ExecutionUpdate, MetadataUpdate
from jobworker.store.database.database import Database
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.executions.timeline import LogRow, TransitionRow
from jobworker.telemetry import plain_text

#: Interval between polls of SQL (s).
POLL_INTERVAL_SECONDS = 0.2

#: Exit codes: the execution succeeded, ended otherwise, has not ended.
EXIT_SUCCEEDED, EXIT_NOT_SUCCEEDED, EXIT_NOT_ENDED = 0, 1, 3

_COLORS = {ExecutionState.SUCCEEDED: "green", ExecutionState.RUNNING: "blue", ExecutionState.RETRYING: "yellow"}
_UNSUCCESSFUL_STATES = frozenset(FINAL_STATES - {ExecutionState.SUCCEEDED})


def follow_execution(database: Database, clock: Clock, execution_id: str) -> int:
    """Print each change of state, progress, metadata and log line until the execution ends; return the exit code."""
    follower = execution_stream.open_cursor(database, execution_id, None)
    while True:
        for news in follower.poll(database):
            click.echo(_format_news(news))
        if follower.is_done(clock.monotonic()):
            break
        clock.wait(threading.Event(), POLL_INTERVAL_SECONDS)
    return print_outcome(executions.get(database, execution_id))


def print_outcome(execution: ExecutionRow) -> int:
    """Print the outcome of an execution; return the exit code."""
    if execution.result_file is not None:
        file = execution.result_file
        click.echo(f"the result is in {file['name']} ({file['size']:,} bytes) on {file['host']}")
        return EXIT_SUCCEEDED
    if execution.state is ExecutionState.SUCCEEDED:
        click.echo(format_json(execution.result, indented=True))
        return EXIT_SUCCEEDED
    if execution.state not in FINAL_STATES:
        click.echo(f"{execution.id} is {format_state(execution.state)}{_format_reason(execution.reason)}", err=True)
        return EXIT_NOT_ENDED
    error = execution.error or {}
    why = f"{error.get('type')}: {error.get('message')}" if error else execution.reason
    click.echo(f"{execution.id} {format_state(execution.state)}{_format_reason(why)}", err=True)
    return EXIT_NOT_SUCCEEDED


def format_state(name: ExecutionState) -> str:
    """Return the name of a state in its color."""
    return click.style(name.value, fg="red" if name in _UNSUCCESSFUL_STATES else _COLORS.get(name))


def format_time(time: dt.datetime, zone: str | None = None) -> str:
    """Return a moment as a clock shows it, in the zone `zone` if it is given."""
    local = time.astimezone(zoneinfo.ZoneInfo(zone)) if zone else time
    return f"{local:%a %Y-%m-%d %H:%M:%S} {local.tzname()}"


def format_differences(differences: Iterable[Difference]) -> Iterator[str]:
    """Yield a line for each difference: its place, with the old and the new value."""
    for difference in differences:
        yield f"{difference.pointer}: {format_json(difference.before)} -> {format_json(difference.now)}"


def format_json(value: object, indented: bool = False) -> str:
    """Return a value as JSON, in one line unless it is indented."""
    text = orjson.dumps(value, option=orjson.OPT_UTC_Z | (orjson.OPT_INDENT_2 if indented else 0))
    return plain_text.escape_json(text.decode())


def format_message(text: str) -> str:
    """Return a text from elsewhere, with the lines after its first indented."""
    return plain_text.indent(plain_text.escape(text))


def _format_news(news: ExecutionUpdate) -> str:
    if isinstance(news, TransitionRow):
        attempt = f" (attempt {news.attempt})" if news.attempt else ""
        change = f"{format_state(news.state)}{attempt} by {news.actor}{_format_reason(news.reason)}"
        return f"{news.at.astimezone():%H:%M:%S} {change}"
    if isinstance(news, LogRow):
        return format_log_line(news)
    if isinstance(news, MetadataUpdate):
        return f"           {format_json(news.data)}"
    return f"           {_format_progress(news.data)}"


def format_log_line(line: LogRow) -> str:
    """Return a line of a job's log."""
    return f"{line.at.astimezone():%H:%M:%S}   {line.level} {format_message(line.message)}"


def _format_progress(progress: Mapping[str, Any]) -> str:
    total = progress.get("total")
    message = progress.get("message")
    return (
        f"{progress.get('done')}{f'/{total}' if total else ''}{f' {format_message(str(message))}' if message else ''}"
    )


def _format_reason(reason: str | None) -> str:
    return f": {format_message(reason)}" if reason else ""
