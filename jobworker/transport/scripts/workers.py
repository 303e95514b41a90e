"""Scripts for heartbeats, silent workers, and the in-flight messages of dead workers."""

from jobworker.transport import keys
from jobworker.transport.scripts.common import COMMON

#: Number of workers that died after starting a foreign message from which the message is discarded.
MAX_MESSAGE_LOSSES = 3

#: KEYS watch, workers set. ARGV lease (ms). Returns some workers that have been silent for longer than the lease.
#: Silence does not count while heartbeats could not arrive: if no process has checked for two thirds of a lease (Redis
#: was down, or all processes were), silence counts again a full lease later.
_SILENT = """
local function silent(watch, workers, lease)
  redis.call('PEXPIRE', watch, lease * 1000)  -- First, so that a full Redis permits the rest.
  local now = milliseconds()
  local seen, from = unpack(redis.call('HMGET', watch, 'seen', 'from'))
  seen, from = tonumber(seen or ''), tonumber(from or '')
  if not seen or not from or now - seen > lease * 2 / 3 then from = now + lease end
  redis.call('HSET', watch, 'seen', now, 'from', from)
  if now < from then return {} end
  return redis.call('ZRANGEBYSCORE', workers, '-inf', now - lease, 'LIMIT', 0, 10)
end
"""

SILENT = COMMON + _SILENT + "return silent(KEYS[1], KEYS[2], tonumber(ARGV[1]))"

#: KEYS fence, workers set, announcement, running attempts, watch. ARGV worker, lease (ms), running attempts (JSON),
#: SHA-1 of the announcement. Returns {0} if the worker is fenced and must end; {2} if it must announce itself (again),
#: because its announcement is missing or differs; else {1}; 1 and 2 are followed by the silent workers. Works when
#: Redis is full, too: PEXPIRE needs no memory, and Redis permits the commands that follow a write.
HEARTBEAT = (
    COMMON
    + _SILENT
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return {0} end
redis.call('PEXPIRE', KEYS[3], ARGV[2] * 2)
local announced = redis.pcall('GET', KEYS[3])
local unknown = type(announced) ~= 'string' or redis.sha1hex(announced) ~= ARGV[4]
local others = silent(KEYS[5], KEYS[2], tonumber(ARGV[2]))
redis.call('ZADD', KEYS[2], milliseconds(), ARGV[1])
redis.call('SET', KEYS[4], ARGV[3], 'PX', ARGV[2] * 2)
return {unknown and 2 or 1, unpack(others)}
"""
)

#: KEYS workers set, fence, announcement, running attempts, in-flight hash, events stream. ARGV worker, lease (ms), ttl
#: of the fence, of a claim and of a count of losses (s), data of a `lost` event, then the fields of the `worker_lost`
#: event. Returns 1 if the worker was silent and is fenced now, else 0. From then on its reports are refused, and the
#: new events follow all its reports. Unstarted messages return to the front of their lists; an attempt that may have
#: started is lost. Foreign messages return, started or not, except for one that too many dead workers have started: it
#: is discarded.
REAP = (
    COMMON
    + f"""
local worker = ARGV[1]
local beat_at = redis.call('ZSCORE', KEYS[1], worker)
if not beat_at or milliseconds() - beat_at < tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[3], KEYS[4])  -- First, so that a full Redis permits the rest.
redis.call('XADD', KEYS[6], '*', unpack(ARGV, 7))
redis.call('SET', KEYS[2], '1', 'EX', ARGV[3])
redis.call('ZREM', KEYS[1], worker)

local function discard_poison(list, message)
  local why = 'it was started by {MAX_MESSAGE_LOSSES} workers that died'
  local data = {{reason = why, worker = worker, queue = queue_of(list)}}
  local readable, whole = pcall(cjson.decode, message)
  if readable and type(whole) == 'table' and type(whole.headers) == 'table' then
    data.message, data.task = whole.headers.id, whole.headers.task
  end
  redis.call('XADD', KEYS[6], '*', 'kind', 'poisoned', 'execution', '', 'attempt', 0, 'data', cjson.encode(data))
  discard(list, message, why)
end

local function is_poison(message)
  local key = '{keys.LOSSES.format(message="")}' .. redis.sha1hex(message)
  redis.call('SET', key, 0, 'EX', ARGV[5], 'NX')
  local losses = redis.pcall('INCR', key)
  if type(losses) == 'number' then return losses >= {MAX_MESSAGE_LOSSES} end
  redis.call('SET', key, 1, 'EX', ARGV[5])  -- The key held another type.
  return false
end

local function back(tag, value, started)
  local list, message = unpacked(value)
  if not list then return discard('', value, 'no worker has fetched it') end
  local execution, attempt = attempt_of(message)
  if execution then
    local known, state, owner, token = record(execution)
    if known ~= attempt or owner ~= worker or token ~= tag or state == 'finished' then return end
    if started then
      redis.call('XADD', KEYS[6], '*', 'kind', 'lost', 'execution', execution, 'attempt', attempt, 'data', ARGV[6])
      write(execution, attempt, 'finished', '-', '-', ARGV[4])
      return
    end
    write(execution, attempt - 1, 'finished', '-', '-', ARGV[4])
  elseif started and is_poison(message) then
    discard_poison(list, message)
    return
  end
  return_message(list, message)
end

local flat, tags, values = redis.pcall('HGETALL', KEYS[5]), {{}}, {{}}
for i = 1, flat.err and 0 or #flat, 2 do
  if tonumber(flat[i]) then tags[#tags + 1] = flat[i] end
  values[flat[i]] = flat[i + 1]
end
-- The message pushed last is fetched next.
table.sort(tags, function(one, other) return tonumber(one) > tonumber(other) end)
local last = tonumber(values['!'] or 0) or 0
for _, tag in ipairs(tags) do back(tag, values[tag], tonumber(tag) <= last) end
redis.call('DEL', KEYS[5])
return 1
"""
)
