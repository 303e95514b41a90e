"""Following one execution while it happens: what is new since the last look, in pieces that can be resumed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jobworker.domain.errors import FieldError, InvalidCursor
from jobworker.domain.execution import FINAL
from jobworker.services import executions
from jobworker.store import story
from jobworker.store.database import Database
from jobworker.store.story import LogRow, Pulse, TransitionRow

#: Log lines that one look brings at most; the next look brings the rest.
_LINES = 500

_BOOKMARK = re.compile(r"(-?\d{1,9})\.(-?\d{1,9})~([0-9-]{0,40})\Z", re.ASCII)

News = TransitionRow | LogRow | dict[str, Any]


@dataclass(slots=True)
class Follower:
    """Somebody who follows an execution, and how far they have read.

    The bookmark names the last change of state and the last log line; progress needs none, as only
    the latest counts. A late report about an earlier state is not news to somebody past it.
    """

    execution_id: str
    state: tuple[int, int] = (-1, -1)
    line: str = ""
    progress: Any = None
    _pulse: Pulse | None = None

    @property
    def bookmark(self) -> str:
        """Where to go on reading."""
        return f"{self.state[0]}.{self.state[1]}~{self.line}"

    @property
    def ended(self) -> bool:
        """Whether the execution has ended and every change of state was read."""
        return self._pulse is not None and self._pulse.state in FINAL

    def look(self, database: Database) -> Iterator[News]:
        """What is new, first things first. The bookmark moves with each item."""
        changes: list[TransitionRow] = []
        lines: list[LogRow] = []
        with database.read() as connection:
            pulse = story.pulse(connection, self.execution_id)
            if pulse is None or pulse == self._pulse:
                return
            changes = [row for row in story.transitions(connection, self.execution_id) if row.position > self.state]
            lines = list(story.logs_after(connection, self.execution_id, self.line, _LINES))
        # More lines than one look brings: the same pulse must not hide them from the next look.
        self._pulse = pulse if len(lines) < _LINES else None
        yield from self._read(changes, lines, pulse)

    def _read(self, changes: list[TransitionRow], lines: list[LogRow], pulse: Pulse) -> Iterator[News]:
        final = [row for row in changes if row.state in FINAL]
        for row in changes:
            if row not in final:
                self.state = row.position
                yield row
        if pulse.progress is not None and pulse.progress != self.progress:
            self.progress = pulse.progress
            yield dict(pulse.progress)
        for line in lines:
            self.line = line.seq
            yield line
        for row in final:
            self.state = row.position
            yield row


def follow(database: Database, execution_id: str, bookmark: str | None) -> Follower:
    """Begin to follow, from the start or from a bookmark; raises `ExecutionNotFound`, `InvalidCursor`."""
    executions.get(database, execution_id)
    if bookmark is None:
        return Follower(execution_id)
    found = _BOOKMARK.match(bookmark)
    if found is None:
        message = "Last-Event-ID is not an id of this stream; leave it out to read from the start"
        raise InvalidCursor(message, [FieldError("Last-Event-ID", "invalid_cursor", message)])
    return Follower(execution_id, (int(found[1]), int(found[2])), found[3])
