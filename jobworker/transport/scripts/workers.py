"""Who lives, who is silent, and what becomes of what the dead had in hand."""

from jobworker.transport import keys
from jobworker.transport.scripts.common import COMMON

#: A foreign message that was started by so many workers that died is not given back again.
MAX_MESSAGE_LOSSES = 3

#: KEYS watch, workers set. ARGV lease (ms). Answers some workers that have been silent for longer than that.
#: Silence is not held against anybody while nobody could be heard: if no one has looked for a good part of a lease
#: (Redis was away, or everything was), it counts again a full lease later.
_SILENT = """
local function silent(watch, workers, lease)
  redis.call('PEXPIRE', watch, lease * 1000)  -- First, so that the rest is let through when Redis is full.
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

#: KEYS fence, workers set, the worker's announcement, what it runs, watch. ARGV worker, lease (ms), what it runs
#: (JSON), SHA-1 of its announcement. Answers {0} if the worker is fenced and must end, {2} if it has to announce itself
#: (again), since its announcement is gone or something else stands there, else {1}, followed by the workers that are
#: silent. Also when Redis is full: PEXPIRE needs no memory, and what follows a command that has written is let through.
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

#: KEYS workers set, fence, announcement, what it runs, in-flight hash, events stream. ARGV worker,
#: lease (ms), ttl of the fence, of a run record and of a count of losses (s), data of a `lost` event, then the fields
#: of the `worker_lost` event. Answers 1 if the worker was silent and is fenced now, else 0. From that moment nothing
#: of it counts, and the events stand behind everything that it reported. What it had not started goes back to the
#: front of its lists; an attempt that may have started is lost. Foreign messages go back, started or not, except
#: one that has been started by too many workers that died: it is put aside.
REAP = (
    COMMON
    + f"""
local worker = ARGV[1]
local heard = redis.call('ZSCORE', KEYS[1], worker)
if not heard or milliseconds() - heard < tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[3], KEYS[4])  -- First, so that the rest is let through when Redis is full.
redis.call('XADD', KEYS[6], '*', unpack(ARGV, 7))
redis.call('SET', KEYS[2], '1', 'EX', ARGV[3])
redis.call('ZREM', KEYS[1], worker)

local function give_up(list, message)
  local why = 'it was started by {MAX_MESSAGE_LOSSES} workers that died'
  local data = {{reason = why, worker = worker, queue = queue_of(list)}}
  local readable, whole = pcall(cjson.decode, message)
  if readable and type(whole) == 'table' and type(whole.headers) == 'table' then
    data.message, data.task = whole.headers.id, whole.headers.task
  end
  redis.call('XADD', KEYS[6], '*', 'kind', 'poisoned', 'execution', '', 'attempt', 0, 'data', cjson.encode(data))
  put_aside(list, message, why)
end

local function is_poison(message)
  local key = '{keys.LOSSES.format(message="")}' .. redis.sha1hex(message)
  redis.call('SET', key, 0, 'EX', ARGV[5], 'NX')
  local losses = redis.pcall('INCR', key)
  if type(losses) == 'number' then return losses >= {MAX_MESSAGE_LOSSES} end
  redis.call('SET', key, 1, 'EX', ARGV[5])  -- What was there was no count.
  return false
end

local function back(tag, value, started)
  local list, message = unpacked(value)
  if not list then return put_aside('', value, 'it is nothing that a worker has fetched') end
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
    give_up(list, message)
    return
  end
  give_back(list, message)
end

local flat, tags, values = redis.pcall('HGETALL', KEYS[5]), {{}}, {{}}
for i = 1, flat.err and 0 or #flat, 2 do
  if tonumber(flat[i]) then tags[#tags + 1] = flat[i] end
  values[flat[i]] = flat[i + 1]
end
-- The last one pushed is the next one fetched.
table.sort(tags, function(one, other) return tonumber(one) > tonumber(other) end)
local last = tonumber(values['!'] or 0) or 0
for _, tag in ipairs(tags) do back(tag, values[tag], tonumber(tag) <= last) end
redis.call('DEL', KEYS[5])
return 1
"""
)
