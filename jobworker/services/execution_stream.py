"""Following one execution while it happens: what is new since the last look, in pieces that can be resumed."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobworker.domain.errors import FieldError, InvalidCursor
from jobworker.domain.executions.execution import FINAL_STATES
from jobworker.services import executions
from jobworker.store.engine.database import Database
from jobworker.store.executions import timeline
from jobworker.store.executions.log_lines import is_truncation_mark
from jobworker.store.executions.timeline import ExecutionSnapshot, LogRow, TransitionRow

#: Log lines that one look brings at most; the next look brings the rest.
_MAX_LINES_PER_POLL = 500

_BOOKMARK_PATTERN = re.compile(r"(-?\d{1,9})\.(-?\d{1,9})~([0-9-]{0,40})\Z", re.ASCII)

#: What the lines of a log are waited for when the execution has ended (s): they may travel slower than states.
_LOG_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """How far the job is: attempt, done, total, message."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MetadataUpdate:
    """What the job keeps with its execution."""

    data: Mapping[str, Any]


ExecutionUpdate = TransitionRow | LogRow | ProgressUpdate | MetadataUpdate


@dataclass(slots=True)
class EventCursor:
    """Somebody who follows an execution, and how far they have read.

    The bookmark names the last change of state and the last log line; progress and metadata need none, as only
    the latest counts. A late report about an earlier state is not news to somebody past it. `has_more`: the last
    look has not brought everything.
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
        """Where to go on reading."""
        return f"{self.last_position[0]}.{self.last_position[1]}~{self.last_line}"

    def is_done(self, now: float, grace: float = 0.0) -> bool:
        """Whether the execution has ended, and all was read that it said; `now` on any scale that goes forward (s).

        `grace`: what a worker could not send in time is waited for so long (s).
        """
        if self._snapshot is None or self._snapshot.state not in FINAL_STATES:
            return False
        if self._ended_at is None:
            self._ended_at = now
        return now - self._ended_at >= (grace if self._snapshot.lines_complete else _LOG_TIMEOUT_SECONDS)

    def poll(self, database: Database) -> Iterator[ExecutionUpdate]:
        """What is new, first things first. The bookmark moves with each item."""
        with database.read() as connection:
            pulse = timeline.get_snapshot(connection, self.execution_id)
            if pulse is None or pulse == self._snapshot:
                return
            changes = [
                row
                for row in timeline.list_all_transitions(connection, self.execution_id)
                if row.position > self.last_position
            ]
            lines = list(timeline.list_logs_after(connection, self.execution_id, self.last_line, _MAX_LINES_PER_POLL))
        # More lines than one look brings: the same pulse must not hide them from the next look.
        self.has_more = len(lines) == _MAX_LINES_PER_POLL
        self._snapshot = None if self.has_more else pulse
        yield from self._yield_updates(changes, lines, pulse)

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
        yield from self._yield_lines(lines, settled=snapshot.state in FINAL_STATES and snapshot.lines_complete)
        for row in final:
            self.last_position = row.position
            yield row

    def _yield_lines(self, lines: list[LogRow], settled: bool) -> Iterator[LogRow]:
        for line in lines:
            # A full log counts what it drops: that is news when it begins, and once more when it is final.
            if not settled and is_truncation_mark(line.seq) and is_truncation_mark(self.last_line):
                return
            self.last_line = line.seq
            yield line


def open_cursor(database: Database, execution_id: str, bookmark: str | None) -> EventCursor:
    """Begin to follow, from the start or from a bookmark; raises `ExecutionNotFound`, `InvalidCursor`."""
    executions.get(database, execution_id)
    if bookmark is None:
        return EventCursor(execution_id)
    found = _BOOKMARK_PATTERN.match(bookmark)
    if found is None:
        message = "Last-Event-ID is not an id of this stream; leave it out to read from the start"
        raise InvalidCursor(message, [FieldError("Last-Event-ID", "invalid_cursor", message)])
    return EventCursor(execution_id, (int(found[1]), int(found[2])), found[3])
