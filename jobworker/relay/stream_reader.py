"""Reading of the event and log streams beyond the offsets stored in SQL: the first step of a turn."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import redis

from jobworker.domain.executions import events
from jobworker.domain.executions.events import Event, UnreadableEvent
from jobworker.relay.problems import RelayProblems
from jobworker.transport import foreign_redis_keys, keys

#: Maximum number of events per turn, and of log lines per transaction, with events or alone.
_EVENT_BATCH_SIZE, _LOG_BATCH_SIZE = 1000, 200

#: An entry of a stream: its id and its fields.
RawStreamEntry = tuple[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class StreamOffsets:
    """The offsets up to which the streams are read."""

    events: str = "0-0"
    logs: str = "0-0"


@dataclass(frozen=True, slots=True)
class EventBatch:
    """The events and log lines of one turn, and the stream offsets after them.

    `has_more_logs`: there are more log lines than the batch holds.
    """

    offsets: StreamOffsets
    events: list[Event] = field(default_factory=list)
    logs: list[Event] = field(default_factory=list)
    is_notified: bool = False
    has_more_logs: bool = False

    def split(self, before: StreamOffsets) -> tuple["EventBatch", "EventBatch"]:
        """Return the batches to commit first and second; `before` are the offsets before this batch.

        Log lines are committed with the state changes, so that a client that reads an end finds the last lines; in a
        flood, they are committed after them.
        """
        if not self.has_more_logs:
            return self, EventBatch(self.offsets)
        states = replace(self, logs=[], offsets=replace(self.offsets, logs=before.logs))
        return states, replace(self, events=[])

    def split_by_event(self, after: StreamOffsets) -> Iterator["EventBatch"]:
        """Yield each event and log line in a batch of its own, in order."""
        for event in self.events:
            after = replace(after, events=event.id)
            yield EventBatch(after, events=[event], has_more_logs=True)
        for line in self.logs:
            after = replace(after, logs=line.id)
            yield EventBatch(after, logs=[line], has_more_logs=True)
        yield EventBatch(self.offsets, has_more_logs=self.has_more_logs)

    def __bool__(self) -> bool:
        return bool(self.events or self.logs)


class StreamReader:
    """Reads the event and log streams and the notifications in one blocking call."""

    def __init__(self, client: redis.Redis, problems: RelayProblems) -> None:
        self._client = client
        self._problems = problems
        self._wake_offset: str | None = None

    def read(self, offsets: StreamOffsets, wait: float) -> EventBatch:
        """Return the entries after `offsets`; waits up to `wait` seconds for them. Raises `redis.RedisError`."""
        if self._wake_offset is None:
            self._wake_offset = self._get_last_notification()
        streams = {keys.EVENTS: offsets.events, keys.LOGS: offsets.logs, keys.WAKE: self._wake_offset}
        batch = self._read(EventBatch(offsets), streams, _LOG_BATCH_SIZE, max(1, int(wait * 1000)))
        if len(batch.events) >= _LOG_BATCH_SIZE:
            # Both streams are read in one step again, so that the last lines of a job never come later than its end.
            streams = {keys.EVENTS: batch.offsets.events, keys.LOGS: batch.offsets.logs}
            batch = self._read(batch, streams, _EVENT_BATCH_SIZE - _LOG_BATCH_SIZE)
        return replace(batch, has_more_logs=len(batch.logs) >= _LOG_BATCH_SIZE)

    def read_logs(self, offsets: StreamOffsets) -> EventBatch:
        """Return the next log lines. Raises `redis.RedisError`."""
        batch = self._read(EventBatch(offsets), {keys.LOGS: offsets.logs}, _LOG_BATCH_SIZE)
        return replace(batch, has_more_logs=len(batch.logs) >= _LOG_BATCH_SIZE)

    def _read(self, batch: EventBatch, streams: dict[Any, Any], count: int, wait: int | None = None) -> EventBatch:
        answer: Any = self._client.xread(streams, count=count, block=wait)
        for name, entries in answer or []:
            batch = self._append(batch, name, entries)
        return batch

    def trim(self, offsets: StreamOffsets) -> None:
        """Delete the entries that SQL has recorded: all before those that the offsets name."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.xtrim(keys.EVENTS, minid=offsets.events, approximate=False)
            pipe.xtrim(keys.LOGS, minid=offsets.logs, approximate=False)
            pipe.execute()

    def _get_last_notification(self) -> str:
        # Not "$", which would miss a notification between two calls.
        notifications: Any = self._client.xrevrange(keys.WAKE, max=foreign_redis_keys.MAX_DATE_MS, count=1)
        return str(notifications[0][0]) if notifications else "0-0"

    def _append(self, batch: EventBatch, name: str, entries: list[RawStreamEntry]) -> EventBatch:
        if foreign_redis_keys.is_beyond_dates(entries[-1][0]):
            count = foreign_redis_keys.renumber_entries(self._client, name)
            why = f"{count} entries with ids beyond all dates, such as {entries[-1][0]}, were given new ones"
            self._problems.report("stream_ids_unusable", f"redis key {name}", why)
            entries = [entry for entry in entries if not foreign_redis_keys.is_beyond_dates(entry[0])]
            if not entries:
                return batch
        last = entries[-1][0]
        if name == keys.EVENTS:
            batch_events = [*batch.events, *self._decode(name, entries)]
            return replace(batch, events=batch_events, offsets=replace(batch.offsets, events=last))
        if name == keys.LOGS:
            batch_logs = [*batch.logs, *self._decode(name, entries)]
            return replace(batch, logs=batch_logs, offsets=replace(batch.offsets, logs=last))
        self._wake_offset = last
        return replace(batch, is_notified=True)

    def _decode(self, stream: str, entries: Iterable[RawStreamEntry]) -> Iterator[Event]:
        for stream_id, fields in entries:
            try:
                yield events.decode(stream_id, fields)
            except UnreadableEvent as error:
                # The entry's content is not logged, because it may be a result or parameters.
                self._problems.report("event_unreadable", f"redis key {stream}", str(error), stream_id)
