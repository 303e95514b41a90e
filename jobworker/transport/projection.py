"""Writes the schedule that beat follows, from what SQL says. Redis may lose it; SQL does not."""

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import redis

from jobworker.transport import entries, keys

_Item = TypeVar("_Item")

#: How often entries are compared one by one, to heal what was quarantined or edited by hand.
AUDIT_EVERY = dt.timedelta(seconds=60)

#: Entries in one round trip.
_CHUNK = 500

#: KEYS schedule, entry, projection, quarantine. ARGV definition, score or "" for never, schedule id, fingerprint.
_PUT = """
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'definition', ARGV[1])
if ARGV[2] == '' then redis.call('ZREM', KEYS[1], KEYS[2])
else redis.call('ZADD', KEYS[1], ARGV[2], KEYS[2]) end
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
redis.call('HDEL', KEYS[4], KEYS[2])
"""


class Planned(Protocol):
    """What the projection wants to know of a schedule."""

    @property
    def id(self) -> str: ...
    @property
    def job(self) -> str: ...
    @property
    def spec(self) -> Mapping[str, Any]: ...
    @property
    def enabled(self) -> bool: ...

    @property
    def next_at(self) -> dt.datetime | None:
        """When it is due next: the first nominal time that has no row in SQL."""
        ...


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync did, in numbers of schedules."""

    written: int
    removed: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An entry as it should be."""

    schedule: Planned
    definition: str

    @classmethod
    def of(cls, schedule: Planned) -> "_Wanted":
        return cls(schedule, entries.encode(schedule.id, schedule.job, schedule.spec))

    @property
    def id(self) -> str:
        return self.schedule.id

    @property
    def key(self) -> str:
        return entries.entry_key(self.id)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.definition.encode()).hexdigest()[:16]

    def first(self) -> str:
        """The score to begin with, "" for never."""
        return "" if self.schedule.next_at is None else entries.to_score(self.schedule.next_at)


class Projection:
    """Keeps beat's schedule equal to SQL's. One caller at a time; needs a client that decodes answers.

    A schedule that did not change keeps its entry with its score. One that changed, or is missing (new, or lost by
    Redis), starts with the first occurrence that has no row in SQL, be it long past.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._put = client.register_script(_PUT)
        self._audited: dt.datetime | None = None

    def sync(self, schedules: Iterable[Planned], now: dt.datetime) -> Synced:
        """Make the entries in Redis agree with `schedules`, all there are. One round trip if they do."""
        wanted = {schedule.id: _Wanted.of(schedule) for schedule in schedules if schedule.enabled and schedule.next_at}
        known = cast("dict[str, str]", self._client.hgetall(keys.BEAT_PROJECTION))
        stale = {entry.id: entry for entry in wanted.values() if known.get(entry.id) != entry.fingerprint}
        if self._audited is None or not dt.timedelta(0) <= now - self._audited < AUDIT_EVERY:
            stale |= {entry.id: entry for entry in self._damaged(list(wanted.values()))}
            self._audited = now
        self._write(list(stale.values()))
        gone = sorted(known.keys() - wanted.keys())
        self._remove(gone)
        return Synced(len(stale), len(gone))

    def _damaged(self, wanted: Sequence[_Wanted]) -> Iterator[_Wanted]:
        """Entries that are not in Redis as they should be, or have come to their end."""
        for chunk in _chunks(wanted):
            pipeline = self._client.pipeline(transaction=False)
            for entry in chunk:
                pipeline.zscore(entries.SCHEDULE_KEY, entry.key)
                pipeline.hget(entry.key, entries.DEFINITION)
            # An answer may be an error: the key of an entry can hold something else.
            answers = pipeline.execute(raise_on_error=False)
            for entry, score, definition in zip(chunk, answers[::2], answers[1::2], strict=True):
                if definition != entry.definition or score is None:
                    yield entry

    def _write(self, changed: Sequence[_Wanted]) -> None:
        for chunk in _chunks(changed):
            pipeline = self._client.pipeline(transaction=False)
            for entry in chunk:
                names = [entries.SCHEDULE_KEY, entry.key, keys.BEAT_PROJECTION, keys.BEAT_QUARANTINE]
                arguments = [entry.definition, entry.first(), entry.id, entry.fingerprint]
                self._put(keys=names, args=arguments, client=pipeline)
            pipeline.execute()

    def _remove(self, ids: Sequence[str]) -> None:
        for chunk in _chunks(ids):
            entry_keys = [entries.entry_key(schedule_id) for schedule_id in chunk]
            pipeline = self._client.pipeline()
            pipeline.zrem(entries.SCHEDULE_KEY, *entry_keys)
            pipeline.delete(*entry_keys)
            pipeline.hdel(keys.BEAT_QUARANTINE, *entry_keys)
            pipeline.hdel(keys.BEAT_PROJECTION, *chunk)
            pipeline.execute()


def _chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]
