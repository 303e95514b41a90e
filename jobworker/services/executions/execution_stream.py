"""The event stream of one execution: the updates since the last poll; resumable by a bookmark."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobworker.domain.errors import FieldError, InvalidCursor
from jobworker.domain.executions.execution import FINAL_STATES
from jobworker.services.executions import executions
from jobworker.store.database.database import Database
from jobworker.store.executions import timeline
from jobworker.store.executions.log_lines import is_truncation_mark
from jobworker.store.executions.timeline import ExecutionSnapshot, LogRow, TransitionRow

#: Maximum number of log lines per poll; the next poll returns the rest.
_MAX_LINES_PER_POLL = 500

_BOOKMARK_PATTERN = re.compile(r"(-?\d{1,9})\.(-?\d{1,9})~([0-9-]{0,40})\Z", re.ASCII)

#: Timeout of the wait for log lines after the execution has ended (s), because they may arrive later than states.
_LOG_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """Progress of the job: attempt, done, total, message."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MetadataUpdate:
    """Metadata that the job stores with its execution."""

    data: Mapping[str, Any]


ExecutionUpdate = TransitionRow | LogRow | ProgressUpdate | MetadataUpdate


@dataclass(slots=True)
class EventCursor:
    """Read position of a client in the event stream of an execution.

    The bookmark names the last transition and the last log line; progress and metadata need no position, because only
    their latest value counts. A late report about a state before the position is not delivered. `has_more`: the last
    poll did not return everything.
    """

    execution_id: str
    last_position: tuple[int, int] = (-1, -1)
    last_line: str = ""
    progress: Any = None
    metadata: Any = None
    has_more: bool = False
    _snapshot: ExecutionSnapshot | None = None
    _ended_at: float | None = None

    @property
    def bookmark(self) -> str:
        """Position from which a client can resume the stream."""
        return f"{self.last_position[0]}.{self.last_position[1]}~{self.last_line}"

    def is_done(self, now: float, grace: float = 0.0) -> bool:
        """Return whether the execution has ended and everything was read.

        `now` is any monotonic time (s). `grace` is the wait for reports that a worker could not send in time (s).
        """
        if self._snapshot is None or self._snapshot.state not in FINAL_STATES:
            return False
        if self._ended_at is None:
            self._ended_at = now
        return now - self._ended_at >= (grace if self._snapshot.lines_complete else _LOG_TIMEOUT_SECONDS)

    def poll(self, database: Database) -> Iterator[ExecutionUpdate]:
        """Yield the updates since the last poll in order. The bookmark advances with each of them."""
        with database.read() as connection:
            snapshot = timeline.get_snapshot(connection, self.execution_id)
            if snapshot is None or snapshot == self._snapshot:
                return
            changes = [
                row
                for row in timeline.list_all_transitions(connection, self.execution_id)
                if row.position > self.last_position
            ]
            lines = list(timeline.list_logs_after(connection, self.execution_id, self.last_line, _MAX_LINES_PER_POLL))
        # If lines are left, an unchanged snapshot must not hide them from the next poll.
        self.has_more = len(lines) == _MAX_LINES_PER_POLL
        self._snapshot = None if self.has_more else snapshot
        yield from self._yield_updates(changes, lines, snapshot)

    def _yield_updates(
        self, changes: list[TransitionRow], lines: list[LogRow], snapshot: ExecutionSnapshot
    ) -> Iterator[ExecutionUpdate]:
        final = [row for row in changes if row.state in FINAL_STATES]
        for row in changes:
            if row not in final:
                self.last_position = row.position
                yield row
        if snapshot.progress is not None and snapshot.progress != self.progress:
            self.progress = snapshot.progress
            yield ProgressUpdate(snapshot.progress)
        if snapshot.metadata is not None and snapshot.metadata != self.metadata:
            self.metadata = snapshot.metadata
            yield MetadataUpdate(snapshot.metadata)
        yield from self._yield_lines(lines, is_complete=snapshot.state in FINAL_STATES and snapshot.lines_complete)
        for row in final:
            self.last_position = row.position
            yield row

    def _yield_lines(self, lines: list[LogRow], is_complete: bool) -> Iterator[LogRow]:
        for line in lines:
            # A full log ends with a count of dropped lines: deliver the first count, and the final one.
            if not is_complete and is_truncation_mark(line.seq) and is_truncation_mark(self.last_line):
                return
            self.last_line = line.seq
            yield line


def open_cursor(database: Database, execution_id: str, bookmark: str | None) -> EventCursor:
    """Return a cursor at the start or at a bookmark. Raises `ExecutionNotFound`, `InvalidCursor`."""
    executions.get(database, execution_id)
    if bookmark is None:
        return EventCursor(execution_id)
    match = _BOOKMARK_PATTERN.match(bookmark)
    if match is None:
        message = "Last-Event-ID is not an id of this stream; leave it out to read from the start"
        raise InvalidCursor(message, [FieldError("Last-Event-ID", "invalid_cursor", message)])
    return EventCursor(execution_id, (int(match[1]), int(match[2])), match[3])
