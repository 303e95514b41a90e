"""Lua scripts of beat. Each script documents its keys and its result.

The lock's token fences: a leader that was stopped and wakes up finds another token, and its pending reports have no
effect. Two beats at once therefore never report one occurrence twice. Time is Redis's own (TIME), never a host's.
"""

from jobworker.transport.scripts.common import IS_BEHIND

#: Lua. Returns the definition of an entry; "" if the entry is missing or its key has another type.
_DEFINITION = """
local function definition_of(key)
  local found = redis.pcall('HGET', key, 'definition')
  return type(found) == 'string' and found or ''
end
"""

#: KEYS lock, schedule, beat, events stream. ARGV token, lock ttl (ms), name of this beat, maximum number of entries to
#: return, version of the time zone data. Takes or extends the lock, records the tick, and reads due entries; none while
#: the relay is behind with events: the entries stay due, and one report of each is enough later. Returns nothing if
#: another beat leads, else {now (s), next score or "", {{key, score, definition}, …}}.
READ = (
    IS_BEHIND
    + _DEFINITION
    + """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  -- A lock without an expiry was written by hand; no beat would ever lead again.
  if redis.call('PTTL', KEYS[1]) == -1 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
  return false
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
redis.call('HSET', KEYS[3], 'leader', ARGV[3], 'zone_data', ARGV[5],
           'tick_ms', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
redis.call('PEXPIRE', KEYS[3], ARGV[2])
local due = {}
if not is_behind(KEYS[4]) then due = redis.call('ZRANGEBYSCORE', KEYS[2], 0, now, 'WITHSCORES', 'LIMIT', 0, ARGV[4]) end
local entries = {}
for i = 1, #due, 2 do
  entries[#entries + 1] = {due[i], due[i + 1], definition_of(due[i])}
end
local following = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {now, following[2] or '', entries}
"""
)

#: KEYS lock, schedule, events stream. ARGV token, then five per entry: key, score and definition as read, next score or
#: "" for never, and the data of the `due` event (see `domain.executions.events`). Reports and advances each entry that
#: is unchanged since it was read. Returns their number, or -1 if the lock is lost.
COMMIT = (
    _DEFINITION
    + """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local reported = 0
for i = 2, #ARGV, 5 do
  local key = ARGV[i]
  if redis.call('ZSCORE', KEYS[2], key) == ARGV[i + 1] and definition_of(key) == ARGV[i + 2] then
    redis.call('XADD', KEYS[3], '*', 'kind', 'due', 'execution', '', 'attempt', '0', 'data', ARGV[i + 4])
    if ARGV[i + 3] == '' then redis.call('ZREM', KEYS[2], key)
    else redis.call('ZADD', KEYS[2], ARGV[i + 3], key) end
    reported = reported + 1
  end
end
return reported
"""
)

#: KEYS lock, schedule, quarantine. ARGV token, key, score and definition as read, the record for the quarantine. Moves
#: an unusable entry from the schedule to the quarantine. Returns 1 if it did, else 0.
QUARANTINE = (
    _DEFINITION
    + """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('ZSCORE', KEYS[2], ARGV[2]) ~= ARGV[3] or definition_of(ARGV[2]) ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[5])
redis.call('ZREM', KEYS[2], ARGV[2])
return 1
"""
)

#: KEYS lock. ARGV token. Releases the lock if this beat holds it. Returns 1 if it did, else 0.
RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
