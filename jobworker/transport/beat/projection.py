"""Projection of SQL's schedules into Redis, where beat reads them. Redis may lose it; SQL is authoritative."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import redis

from jobworker.domain.executions import events
from jobworker.transport import keys
from jobworker.transport.beat import entry_format

_Item = TypeVar("_Item")

#: Maximum number of entries that one script compares or writes: a few milliseconds of Redis's time.
_BATCH_SIZE = 500

#: Age of a reported occurrence after which its event counts as lost; the relay evaluates events within a second.
_LOST_EVENT_AFTER = dt.timedelta(seconds=10)

#: Maximum number of unread events that are searched for beat's. If there are more, any schedule may be among them.
_MAX_UNREAD_EVENTS = 1000

#: KEYS schedule, projection, events stream. ARGV prefix of entries, now, time before which a due occurrence counts as
#: lost (scores), the stream id up to which events are recorded, then for each schedule its id, version ("" if beat must
#: not have it) and the score of its next occurrence. Beat reports an occurrence again if its event was lost; an unread
#: event is not lost, however long ago its occurrence was due. Returns {ids of entries that differ, ids whose events
#: were lost, ids that another program postponed}; the entries of the latter two were reset.
_COMPARE = f"""
local now, lost_before = tonumber(ARGV[2]), tonumber(ARGV[3])
local wrong, lost, postponed = {{}}, {{}}, {{}}
local unread, many
local function is_unread(id)
  if not unread then
    unread = {{}}
    local events = redis.call('XRANGE', KEYS[3], '(' .. ARGV[4], '+', 'COUNT', {_MAX_UNREAD_EVENTS})
    many = #events == {_MAX_UNREAD_EVENTS}
    for _, event in ipairs(events) do
      local fields = {{}}
      for i = 1, #event[2], 2 do fields[event[2][i]] = event[2][i + 1] end
      local read, data = pcall(cjson.decode, fields.kind == '{events.EventKind.DUE}' and fields.data or '')
      if read and type(data) == 'table' and data.schedule then unread[data.schedule] = true end
    end
  end
  return many or unread[id]
end
for i = 5, #ARGV, 3 do
  local id, version, first = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local mark = redis.call('HGET', KEYS[2], id)
  if version == '' then
    if mark then wrong[#wrong + 1] = id end
  else
    local key = ARGV[1] .. id
    local score = redis.call('ZSCORE', KEYS[1], key)
    local definition = redis.pcall('HGET', key, 'definition')
    if not score or type(definition) ~= 'string' or mark ~= version .. ' ' .. redis.sha1hex(definition) then
      wrong[#wrong + 1] = id
    elseif tonumber(score) > first and (first < lost_before or first > now) and not is_unread(id) then
      redis.call('ZADD', KEYS[1], ARGV[i + 2], key)
      -- Beat advances an entry to a finite time, and only after it was due.
      local reset = first <= now and tonumber(score) < math.huge and lost or postponed
      reset[#reset + 1] = id
    end
  end
end
return {{wrong, lost, postponed}}
"""

#: KEYS schedule, projection, quarantine. ARGV prefix of entries, then for each: id, version, definition, score.
_WRITE = """
for i = 2, #ARGV, 4 do
  local key = ARGV[1] .. ARGV[i]
  redis.call('DEL', key)
  redis.call('HSET', key, 'definition', ARGV[i + 2])
  redis.call('ZADD', KEYS[1], ARGV[i + 3], key)
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1] .. ' ' .. redis.sha1hex(ARGV[i + 2]))
  redis.call('HDEL', KEYS[3], key)
end
"""


@dataclass(frozen=True, slots=True)
class ExpectedEntry:
    """The expected state of an entry: its version, and due no later than `next_at`; None if no entry should exist."""

    id: str
    version: str
    next_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class ProjectedSchedule:
    """A schedule to write for beat: its next occurrence, and the JSON of the schedule and its calendars."""

    id: str
    version: str
    next_at: dt.datetime
    spec: Mapping[str, Any]
    calendars: Mapping[str, Any]


class ProjectionDifference(NamedTuple):
    """The result of a comparison: ids to write or remove; ids with lost events, and postponed by hand (both reset)."""

    outdated: list[str]
    lost: list[str]
    postponed: list[str]


class Projection:
    """Beat's schedule as written by the relay. Needs a client that decodes responses."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._compare = client.register_script(_COMPARE)
        self._write = client.register_script(_WRITE)

    def compare(self, expected: Sequence[ExpectedEntry], now: dt.datetime, events_offset: str) -> ProjectionDifference:
        """Find the entries that differ from SQL; events are recorded up to the stream id `events_offset`.

        A correct entry keeps its score, unless SQL waits for an occurrence which beat has passed already: then the
        event was lost, and the entry is reset so that beat reports the occurrence again.
        """
        answer = ProjectionDifference([], [], [])
        bounds = [entry_format.to_score(now), entry_format.to_score(now - _LOST_EVENT_AFTER), events_offset]
        for batch in _split_into_batches(expected):
            arguments = [text for entry in batch for text in _to_compare_arguments(entry)]
            answers: Any = self._compare(
                keys=[entry_format.SCHEDULE_KEY, keys.BEAT_PROJECTION, keys.EVENTS],
                args=[entry_format.KEY_PREFIX, *bounds, *arguments],
            )
            answer.outdated.extend(answers[0])
            answer.lost.extend(answers[1])
            answer.postponed.extend(answers[2])
        return answer

    def write(self, schedules: Sequence[ProjectedSchedule]) -> None:
        """Write these entries anew. Each starts with its next occurrence, even if that is long past."""
        for batch in _split_into_batches(schedules):
            arguments = [text for schedule in batch for text in _to_write_arguments(schedule)]
            names = [entry_format.SCHEDULE_KEY, keys.BEAT_PROJECTION, keys.BEAT_QUARANTINE]
            self._write(keys=names, args=[entry_format.KEY_PREFIX, *arguments])

    def remove(self, ids: Sequence[str]) -> None:
        """Remove every trace of these schedules."""
        for batch in _split_into_batches(ids):
            entry_keys = [entry_format.build_entry_key(schedule_id) for schedule_id in batch]
            pipeline = self._client.pipeline()
            pipeline.zrem(entry_format.SCHEDULE_KEY, *entry_keys)
            pipeline.delete(*entry_keys)
            pipeline.hdel(keys.BEAT_QUARANTINE, *entry_keys)
            pipeline.hdel(keys.BEAT_PROJECTION, *batch)
            pipeline.execute()

    def count(self) -> int:
        """Return how many schedules the projection holds."""
        return self._client.hlen(keys.BEAT_PROJECTION)

    def scan(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Return the next cursor and about `count` of the ids; cursor 0 is the beginning, and the end."""
        # With their values, which are short: NOVALUES came with Redis 7.4.
        answer: Any = self._client.hscan(keys.BEAT_PROJECTION, cursor, count=count)
        return int(answer[0]), list(answer[1])


def _to_compare_arguments(entry: ExpectedEntry) -> tuple[str, str, str]:
    if entry.next_at is None:
        return entry.id, "", ""
    return entry.id, entry.version, entry_format.to_score(entry.next_at)


def _to_write_arguments(schedule: ProjectedSchedule) -> tuple[str, str, str, str]:
    return (
        schedule.id,
        schedule.version,
        entry_format.encode_definition(schedule.id, schedule.spec, schedule.calendars),
        entry_format.to_score(schedule.next_at),
    )


def _split_into_batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), _BATCH_SIZE):
        yield items[start : start + _BATCH_SIZE]
