"""Writes the schedule that beat follows, from what SQL says. Redis may lose it; SQL does not."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import redis

from jobworker.domain.executions import events
from jobworker.transport import keys
from jobworker.transport.beat import entry_format

_Item = TypeVar("_Item")

#: Entries that one script looks at or writes: a few milliseconds of Redis's time.
_BATCH_SIZE = 500

#: What beat has reported is settled within a second; who was passed for so long was not heard of.
_LOST_EVENT_AFTER = dt.timedelta(seconds=10)

#: Reports that are not settled yet and are looked through for those of beat. If there are more, all may be among them.
_MAX_UNREAD_EVENTS = 1000

#: KEYS schedule, projection, events stream. ARGV prefix of entries, now, before when what was due counts as lost
#: (scores), the stream id up to which events are settled, then for each schedule its id, version ("" if beat must not
#: know it) and the score of its next occurrence.
#: Beat reports again what it reported and nobody heard; a report that is not settled yet is not lost, however long ago
#: its occurrence was due. Answers {ids that are not as they should be, ids that nobody heard of, ids that somebody had
#: put off}; the latter two were put back.
_COMPARE = f"""
local now, unheard = tonumber(ARGV[2]), tonumber(ARGV[3])
local wrong, lost, put_off = {{}}, {{}}, {{}}
local unsettled, many
local function is_unsettled(id)
  if not unsettled then
    unsettled = {{}}
    local events = redis.call('XRANGE', KEYS[3], '(' .. ARGV[4], '+', 'COUNT', {_MAX_UNREAD_EVENTS})
    many = #events == {_MAX_UNREAD_EVENTS}
    for _, event in ipairs(events) do
      local fields = {{}}
      for i = 1, #event[2], 2 do fields[event[2][i]] = event[2][i + 1] end
      local read, data = pcall(cjson.decode, fields.kind == '{events.EventKind.DUE}' and fields.data or '')
      if read and type(data) == 'table' and data.schedule then unsettled[data.schedule] = true end
    end
  end
  return many or unsettled[id]
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
    elseif tonumber(score) > first and (first < unheard or first > now) and not is_unsettled(id) then
      redis.call('ZADD', KEYS[1], ARGV[i + 2], key)
      -- Beat goes on to a time, and only from what was due.
      local told = first <= now and tonumber(score) < math.huge and lost or put_off
      told[#told + 1] = id
    end
  end
end
return {{wrong, lost, put_off}}
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
    """How an entry should be: of this version, due no later than `next_at`; None: there should be none."""

    id: str
    version: str
    next_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class ProjectedSchedule:
    """A schedule that beat has to know, when it is due next, and what says when: itself and calendars, as JSON."""

    id: str
    version: str
    next_at: dt.datetime
    spec: Mapping[str, Any]
    calendars: Mapping[str, Any]


class ProjectionDifference(NamedTuple):
    """What a comparison found: ids of schedules to be written or removed; unheard or put off by hand: put back."""

    outdated: list[str]
    lost: list[str]
    postponed: list[str]


class Projection:
    """Beat's schedule as the relay sees it. Needs a client that decodes answers."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._compare = client.register_script(_COMPARE)
        self._write = client.register_script(_WRITE)

    def compare(self, expected: Sequence[ExpectedEntry], now: dt.datetime, events_offset: str) -> ProjectionDifference:
        """Find the entries that are not as they should be; events are settled up to the stream id `events_offset`.

        An entry that is well keeps its place, unless SQL waits for an occurrence which beat has passed already: the
        event was lost, and the entry is put back so that beat reports it again.
        """
        answer = ProjectionDifference([], [], [])
        bounds = [entry_format.to_score(now), entry_format.to_score(now - _LOST_EVENT_AFTER), events_offset]
        for chunk in _chunks(expected):
            asked = [text for each in chunk for text in _to_compare_arguments(each)]
            found: Any = self._compare(
                keys=[entry_format.SCHEDULE_KEY, keys.BEAT_PROJECTION, keys.EVENTS],
                args=[entry_format.KEY_PREFIX, *bounds, *asked],
            )
            answer.outdated.extend(found[0])
            answer.lost.extend(found[1])
            answer.postponed.extend(found[2])
        return answer

    def write(self, schedules: Sequence[ProjectedSchedule]) -> None:
        """Write these entries anew. Each starts with its next occurrence, be it long past."""
        for chunk in _chunks(schedules):
            told = [text for each in chunk for text in _to_write_arguments(each)]
            names = [entry_format.SCHEDULE_KEY, keys.BEAT_PROJECTION, keys.BEAT_QUARANTINE]
            self._write(keys=names, args=[entry_format.KEY_PREFIX, *told])

    def remove(self, ids: Sequence[str]) -> None:
        """Leave nothing of these schedules."""
        for chunk in _chunks(ids):
            entry_keys = [entry_format.build_entry_key(schedule_id) for schedule_id in chunk]
            pipeline = self._client.pipeline()
            pipeline.zrem(entry_format.SCHEDULE_KEY, *entry_keys)
            pipeline.delete(*entry_keys)
            pipeline.hdel(keys.BEAT_QUARANTINE, *entry_keys)
            pipeline.hdel(keys.BEAT_PROJECTION, *chunk)
            pipeline.execute()

    def count(self) -> int:
        """How many schedules beat knows from us."""
        return self._client.hlen(keys.BEAT_PROJECTION)

    def scan(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """About `count` of their ids, and where to go on: 0 is the beginning, and the end."""
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


def _chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), _BATCH_SIZE):
        yield items[start : start + _BATCH_SIZE]
