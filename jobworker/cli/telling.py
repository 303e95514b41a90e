"""How things are told on a terminal: executions, moments, differences."""

import datetime as dt
import threading
import zoneinfo
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click
import orjson

from jobworker.clock import Clock
from jobworker.domain.differences import Difference
from jobworker.domain.execution import FINAL, State
from jobworker.services import executions, following
from jobworker.services.following import Metadata, News
from jobworker.store.database import Database
from jobworker.store.executions import ExecutionRow
from jobworker.store.story import LogRow, TransitionRow
from jobworker.telemetry import plain_text

#: How often SQL is asked for news (s).
LOOK_EVERY = 0.2

#: Exit codes: it succeeded, it ended otherwise, it has not ended.
SUCCEEDED, NOT_SUCCEEDED, NOT_ENDED = 0, 1, 3

_COLOURS = {State.SUCCEEDED: "green", State.RUNNING: "blue", State.RETRYING: "yellow"}
_BAD = frozenset(FINAL - {State.SUCCEEDED})


def follow(database: Database, clock: Clock, execution_id: str) -> int:
    """Print each change of state, progress, metadata and log line until the execution has ended; the exit code."""
    follower = following.follow(database, execution_id, None)
    while True:
        for news in follower.poll(database):
            click.echo(_line(news))
        if follower.is_done(clock.monotonic()):
            break
        clock.wait(threading.Event(), LOOK_EVERY)
    return outcome(executions.get(database, execution_id))


def outcome(execution: ExecutionRow) -> int:
    """Print what came of it; the exit code."""
    if execution.result_file is not None:
        file = execution.result_file
        click.echo(f"the result is in {file['name']} ({file['size']:,} bytes) on {file['host']}")
        return SUCCEEDED
    if execution.state is State.SUCCEEDED:
        click.echo(json(execution.result, indented=True))
        return SUCCEEDED
    if execution.state not in FINAL:
        click.echo(f"{execution.id} is {state(execution.state)}{_because(execution.reason)}", err=True)
        return NOT_ENDED
    error = execution.error or {}
    why = f"{error.get('type')}: {error.get('message')}" if error else execution.reason
    click.echo(f"{execution.id} {state(execution.state)}{_because(why)}", err=True)
    return NOT_SUCCEEDED


def state(name: State) -> str:
    """The state in its colour."""
    return click.style(name.value, fg="red" if name in _BAD else _COLOURS.get(name))


def moment(at: dt.datetime, zone: str | None = None) -> str:
    """A moment as clocks show it, those of `zone` if it is named."""
    local = at.astimezone(zoneinfo.ZoneInfo(zone)) if zone else at
    return f"{local:%a %Y-%m-%d %H:%M:%S} {local.tzname()}"


def differences(found: Iterable[Difference]) -> Iterator[str]:
    """Each place, with what was there and what is."""
    for each in found:
        yield f"{each.pointer}: {json(each.before)} -> {json(each.now)}"


def json(value: object, indented: bool = False) -> str:
    """As JSON, in one line unless it is indented."""
    written = orjson.dumps(value, option=orjson.OPT_UTC_Z | (orjson.OPT_INDENT_2 if indented else 0))
    return plain_text.escape_json(written.decode())


def message(text: str) -> str:
    """A text that others wrote, with the lines after its first indented."""
    return plain_text.indent(plain_text.escape(text))


def _line(news: News) -> str:
    if isinstance(news, TransitionRow):
        attempt = f" (attempt {news.attempt})" if news.attempt else ""
        return f"{news.at.astimezone():%H:%M:%S} {state(news.state)}{attempt} by {news.actor}{_because(news.reason)}"
    if isinstance(news, LogRow):
        return log_line(news)
    if isinstance(news, Metadata):
        return f"           {json(news.data)}"
    return f"           {_progress(news.data)}"


def log_line(line: LogRow) -> str:
    """A line of a job's log."""
    return f"{line.at.astimezone():%H:%M:%S}   {line.level} {message(line.message)}"


def _progress(progress: Mapping[str, Any]) -> str:
    total = progress.get("total")
    said = progress.get("message")
    return f"{progress.get('done')}{f'/{total}' if total else ''}{f' {message(str(said))}' if said else ''}"


def _because(reason: str | None) -> str:
    return f": {message(reason)}" if reason else ""
