"""Beat's keys in Redis: their types, beat's last tick, and its time zone data."""

import datetime as dt
from collections.abc import Mapping

import redis

from jobworker.transport import keys
from jobworker.transport.beat import entry_format

#: Keys that the relay writes for beat or reads from it, and their types.
KEY_TYPES = {
    entry_format.SCHEDULE_KEY: "zset",
    keys.BEAT: "hash",
    keys.BEAT_PROJECTION: "hash",
    keys.BEAT_QUARANTINE: "hash",
}

#: KEYS any. ARGV the type that each should have. Deletes those of another type, and returns their names.
_DISCARD = """
local discarded = {}
for i, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= ARGV[i] then
    redis.call('DEL', key)
    discarded[#discarded + 1] = key
  end
end
return discarded
"""


def discard_foreign_keys(client: redis.Redis, types: Mapping[str, str]) -> list[str]:
    """Delete those of these keys that have another type; return their names.

    Another program wrote them, and every command on them fails forever. The correct values are written again.
    """
    names = client.eval(_DISCARD, len(types), *types, *types.values())
    return [key.decode() if isinstance(key, bytes) else key for key in names]


def get_last_tick(client: redis.Redis) -> dt.datetime | None:
    """Return the time of beat's last tick; None if no beat leads, or the value is unreadable."""
    try:
        tick = client.hget(keys.BEAT, "tick_ms")
        return dt.datetime.fromtimestamp(int(tick) / 1000, dt.UTC) if tick else None
    except (redis.ResponseError, ValueError, OverflowError, OSError):
        return None


def get_zone_data(client: redis.Redis) -> tuple[str, str] | None:
    """Return the name of the leading beat and the version of its time zone data; None if either is missing."""
    try:
        leader, version = client.hmget(keys.BEAT, "leader", "zone_data")
    except redis.ResponseError:
        return None
    return (str(leader), str(version)) if leader and version else None
