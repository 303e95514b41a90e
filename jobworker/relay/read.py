"""The first step of a turn: what the streams hold beyond what SQL has."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import redis
import structlog

from jobworker.domain import events
from jobworker.domain.events import Event, UnreadableEvent
from jobworker.transport import keys

logger = structlog.get_logger(__name__)

#: Entries of one stream that one turn takes.
_COUNT = 1000


@dataclass(frozen=True, slots=True)
class Offsets:
    """How far the streams are read."""

    events: str = "0-0"
    logs: str = "0-0"


@dataclass(frozen=True, slots=True)
class Batch:
    """What one turn works on, and how far the streams are read once it is done."""

    offsets: Offsets
    events: list[Event] = field(default_factory=list)
    logs: list[Event] = field(default_factory=list)
    woken: bool = False

    def one_by_one(self, after: Offsets) -> Iterator["Batch"]:
        """The same reports, each in a batch of its own."""
        for event in self.events:
            after = replace(after, events=event.id)
            yield Batch(after, events=[event])
        for line in self.logs:
            after = replace(after, logs=line.id)
            yield Batch(after, logs=[line])
        yield Batch(self.offsets)

    def __bool__(self) -> bool:
        return bool(self.events or self.logs)


class Reader:
    """Reads both streams and the doorbell in one blocking call."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._wake: str | None = None

    def read(self, offsets: Offsets, wait: float) -> Batch:
        """What came after `offsets`; waits up to `wait` seconds for it. Raises `redis.RedisError`."""
        if self._wake is None:
            self._wake = self._last_ring()
        streams: dict[Any, Any] = {keys.EVENTS: offsets.events, keys.LOGS: offsets.logs, keys.WAKE: self._wake}
        answer: Any = self._client.xread(streams, count=_COUNT, block=max(1, int(wait * 1000)))
        batch = Batch(offsets)
        for name, entries in answer or []:
            batch = self._add(batch, name, entries)
        return batch

    def trim(self, offsets: Offsets) -> None:
        """Drop what SQL has: everything before the entries that the offsets name."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.xtrim(keys.EVENTS, minid=offsets.events, approximate=False)
            pipe.xtrim(keys.LOGS, minid=offsets.logs, approximate=False)
            pipe.execute()

    def _last_ring(self) -> str:
        # Not "$": a ring between two calls would get lost.
        rings: Any = self._client.xrevrange(keys.WAKE, count=1)
        return str(rings[0][0]) if rings else "0-0"

    def _add(self, batch: Batch, name: str, entries: list[tuple[str, dict[str, str]]]) -> Batch:
        last = entries[-1][0]
        if name == keys.EVENTS:
            return replace(batch, events=list(_decode(entries)), offsets=replace(batch.offsets, events=last))
        if name == keys.LOGS:
            return replace(batch, logs=list(_decode(entries)), offsets=replace(batch.offsets, logs=last))
        self._wake = last
        return replace(batch, woken=True)


def _decode(entries: Iterable[tuple[str, dict[str, str]]]) -> Iterable[Event]:
    for stream_id, fields in entries:
        try:
            yield events.decode(stream_id, fields)
        except UnreadableEvent as error:
            logger.error("event_unreadable", error=str(error), fields=fields)
