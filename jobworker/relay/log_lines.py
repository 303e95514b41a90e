"""Recording of the jobs' log lines in SQL, up to the size limit. Runs inside the turn's transaction."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa
import structlog

from jobworker.domain.executions import log_limits
from jobworker.domain.executions.events import Event, EventKind
from jobworker.domain.executions.log_limits import MAX_LOG_BYTES, DroppedLines
from jobworker.store.executions import log_lines
from jobworker.store.executions.log_lines import LogLine, LogSize

logger = structlog.get_logger(__name__)


#: Maximum plausible number of dropped lines, or bytes, in one event.
_MAX_DROPPED = 10**10


def record_logs(connection: sa.Connection, reports: Sequence[Event]) -> None:
    """Record log lines in order until a log is full; after that, record only how much was dropped."""
    if not reports:
        return
    before = log_lines.get_sizes(connection, {event.execution for event in reports})
    after: dict[str, LogSize] = {}
    lines: list[LogLine] = []
    marks: dict[str, LogLine] = {}
    for event in reports:
        size = after.get(event.execution) or before.get(event.execution)
        if size is None:
            continue
        try:
            line, size = _append_line(event, size)
        except (KeyError, TypeError, ValueError) as error:  # Content of Redis must not stop the relay.
            logger.error("event_unreadable", event_id=event.id, error=repr(error), execution=event.execution)
            continue
        after[event.execution] = size
        if line is not None:
            lines.append(line)
        else:
            marks[event.execution] = log_lines.build_truncation_mark(
                event.execution, size.dropped, event.attempt, event.at
            )
    log_lines.insert(connection, lines)
    log_lines.update_sizes(connection, after)
    log_lines.replace_truncation_marks(connection, list(marks.values()))


def _append_line(event: Event, size: LogSize) -> tuple[LogLine | None, LogSize]:
    """Return the line to store (None if it is dropped) and the size of the log afterwards."""
    if event.kind is not EventKind.LOG:
        lines, length = (min(max(0, int(number)), _MAX_DROPPED) for number in event.data["dropped"])
        return None, replace(size, dropped=size.dropped + DroppedLines(lines, length))
    line = _parse_line(event)
    length = log_limits.compute_line_size(line.message)
    if size.dropped or size.stored_bytes + length > MAX_LOG_BYTES:
        return None, replace(size, dropped=size.dropped + DroppedLines(1, length))
    return line, replace(size, stored_bytes=size.stored_bytes + length)


def _parse_line(event: Event) -> LogLine:
    data = event.data
    return LogLine(
        execution_id=event.execution,
        seq=log_lines.format_seq(event.id),
        attempt=event.attempt,
        at=dt.datetime.fromisoformat(data["at"]).astimezone(dt.UTC),
        level=str(data["level"])[:16],
        logger=str(data["logger"])[:255],
        message=log_limits.cut_line(str(data["message"])),
    )
