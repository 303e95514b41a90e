"""Foreign values under JobWorker's keys that keep JobWorker from using them.

Every command on a key of another type fails. In a stream, an entry with an id beyond all dates gives each later entry a
higher id, until none is left.
"""

from typing import Any

import redis

from jobworker.transport import keys

#: JobWorker's keys that exist once, not per worker or execution, and their types.
_KEY_TYPES = {
    keys.EPOCH: "string",
    keys.EVENTS: "stream",
    keys.LOGS: "stream",
    keys.WAKE: "stream",
    keys.WORKERS: "zset",
    keys.CALLED_QUEUES: "zset",
    keys.POISON: "list",
    keys.WATCH: "hash",
}

#: Latest time that a date can have (ms): no clock has given a stream entry an id beyond it.
MAX_DATE_MS = 253_402_300_799_999

#: KEYS stream. Rewrites the stream, because its last id cannot be lowered. Returns how many entries have new ids.
_RENUMBER = f"""
local entries, count = redis.call('XRANGE', KEYS[1], '-', '+'), 0
redis.call('DEL', KEYS[1])
for _, entry in ipairs(entries) do
  local id = entry[1]
  if tonumber(string.match(id, '^%d+')) > {MAX_DATE_MS} then id, count = '*', count + 1 end
  redis.call('XADD', KEYS[1], id, unpack(entry[2]))
end
return count
"""


def is_beyond_dates(stream_id: str) -> bool:
    """Return whether the time in a stream id is later than any date, so that no clock has created it."""
    return int(stream_id.partition("-")[0]) > MAX_DATE_MS


def renumber_entries(client: redis.Redis, stream: str) -> int:
    """Give entries with an id beyond all dates new ids; return their number. Raises `redis.RedisError`."""
    return int(client.eval(_RENUMBER, 1, stream))


def rename_foreign_keys(client: redis.Redis) -> list[tuple[str, str, str]]:
    """Rename keys with a value of another type; return (key, the type found, the new name) of each.

    An earlier renamed key of the new name is replaced. Raises `redis.RedisError`.
    """
    with client.pipeline(transaction=False) as pipe:
        for key in _KEY_TYPES:
            pipe.type(key)
        kinds: list[Any] = pipe.execute()
    moved = []
    for (key, expected), kind in zip(_KEY_TYPES.items(), kinds, strict=True):
        if kind not in (expected, "none"):
            name = keys.ASIDE.format(key=key)
            client.rename(key, name)
            moved.append((key, kind, name))
    return moved
