"""What happens in Redis in one step. Each script names its keys and says what it answers.

All of them use Redis's own clock (TIME), never a host's. Keys that follow from messages and executions are
built inside, so all of JobWorker's data live on one Redis (no cluster).
"""

from jobworker.transport import keys

#: A foreign message that was started by so many workers that died is not given back again.
MOST_LOSSES = 3

#: kombu's names: one list per queue and priority step, 0 the most urgent.
PRIORITY_STEPS = (0, 3, 6, 9)
SEPARATOR = "\x06\x16"

#: What several scripts share. A run record is "<attempt> <state> <worker> <token>".
_COMMON = f"""
local function run_key(execution) return '{keys.RUN.format(execution="")}' .. execution end
local function ready_key(queue) return '{keys.READY.format(queue="")}' .. queue end

local function record(execution)
  local text = redis.call('GET', run_key(execution))
  if not text then return -1, '', '', '' end
  local attempt, state, worker, token = string.match(text, '^(%d+) (%a+) (%S+) (%S+)$')
  return tonumber(attempt), state, worker, token
end

local function write(execution, attempt, state, worker, token, ttl)
  local text = table.concat({{attempt, state, worker, token}}, ' ')
  redis.call('SET', run_key(execution), text, 'EX', ttl)
end

local function attempt_of(message)
  local execution, attempt = string.match(
    message, '^{{"headers":{{"jobworker":{{"execution":"([%w%-]+)","attempt":(%d+),')
  return execution, tonumber(attempt)
end

local function queue_of(list)
  local at = string.find(list, '{SEPARATOR}', 1, true)
  return at and string.sub(list, 1, at - 1) or list
end

local function lists_of(queue)
  return {{queue, {", ".join(f"queue .. '{SEPARATOR}{step}'" for step in PRIORITY_STEPS if step)}}}
end

local function ring(queue)
  if redis.call('LLEN', ready_key(queue)) == 0 then redis.call('LPUSH', ready_key(queue), '1') end
end

local function unpacked(value)
  local colon = string.find(value, ':', 1, true)
  local last = colon + tonumber(string.sub(value, 1, colon - 1))
  return string.sub(value, colon + 1, last), string.sub(value, last + 1)
end

local function milliseconds()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
"""

#: KEYS fence, workers set, in-flight hash. ARGV worker, first tag, how many, how many of them may start at once, ttl
#: of a record (s), then (queue, share) of each queue in the order of preference. Moves messages into the in-flight
#: hash: of each queue its share, urgent ones first, then whatever there is. The attempts that may start at once are
#: marked running, the others reserved. A copy of an attempt that is taken or over is dropped. Answers
#: {"ok", tag, queue, message, …}, {"fenced"} or {"unknown"} (announce yourself first). A queue in which something
#: remains keeps a token, so that one more worker wakes up. A foreign message that may start has a field "<tag>!".
FETCH = (
    _COMMON
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return {'fenced'} end
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {'unknown'} end
local worker, tag, wanted, starting, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local answer, held = {'ok'}, {}

local function claim(message)
  local execution, attempt = attempt_of(message)
  if not execution then
    if starting > 0 then held[#held + 1], held[#held + 2] = tag .. '!', '1' end
    return true
  end
  if record(execution) >= attempt then return false end
  write(execution, attempt, starting > 0 and 'running' or 'reserved', worker, tag, ttl)
  return true
end

local function keep(queue, list, message)
  held[#held + 1] = tag
  held[#held + 1] = #list .. ':' .. list .. message
  answer[#answer + 1] = tostring(tag)
  answer[#answer + 1] = queue
  answer[#answer + 1] = message
  tag, wanted, starting = tag + 1, wanted - 1, starting - 1
end

local function take(queue, count)
  for _, list in ipairs(lists_of(queue)) do
    while count > 0 do
      local messages = redis.call('RPOP', list, count)
      if not messages then break end
      for _, message in ipairs(messages) do
        if claim(message) then
          keep(queue, list, message)
          count = count - 1
        end
      end
    end
  end
end

for i = 6, #ARGV, 2 do take(ARGV[i], math.min(tonumber(ARGV[i + 1]), wanted)) end
for i = 6, #ARGV, 2 do
  if wanted > 0 then take(ARGV[i], wanted) end
  if redis.call('EXISTS', unpack(lists_of(ARGV[i]))) > 0 then ring(ARGV[i])
  else redis.call('DEL', ready_key(ARGV[i])) end
end
if #held > 0 then redis.call('HSET', KEYS[3], unpack(held)) end
return answer
"""
)

#: KEYS fence, in-flight hash, events stream. ARGV worker, ttl of a running and of a finished record (s), then
#: any number of (what, tag, execution, attempt, number of fields, fields of an event …):
#:   clear   the attempt may start from now on → "run", "duplicate", "stale" or "revoked"; its event, unless refused
#:   tell    the event                                                          → "ok"
#:   end     it ended, message done       → "ok" (also when told twice) or "stale"; its event unless stale
#:   done    message done, no attempt     → "ok"; its event, if there is one
#:   back    not started, back to the front of its list                        → "ok" or "gone"
#:   refuse  cannot start here, message done; the event asks for somebody else → "ok"
#: Answers one word each, or {"fenced"}: then nothing was done. All or nothing also when Redis is full: if it
#: is, the first command that needs memory fails before anything was written.
SETTLE = (
    _COMMON
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return {'fenced'} end
local worker, running_ttl, finished_ttl = ARGV[1], ARGV[2], ARGV[3]
local answers, ops = {}, {}

local function tell(first, count)
  if count > 0 then redis.call('XADD', KEYS[3], '*', unpack(ARGV, first, first + count - 1)) end
end

-- A record that is missing or older: Redis lost its data, or nobody reserved the attempt. The worker is believed.
function ops.clear(tag, execution, attempt, first, count)
  if execution == '' then
    redis.call('HSET', KEYS[2], tag .. '!', '1')
    return 'run'
  end
  local known, state, owner, token = record(execution)
  if known > attempt then return 'stale' end
  if known == attempt then
    if state == 'revoked' or state == 'finished' then return state == 'revoked' and 'revoked' or 'stale' end
    if owner ~= worker or token ~= tag then return 'duplicate' end
    if state == 'running' then return 'run' end
  end
  tell(first, count)
  write(execution, attempt, 'running', worker, tag, running_ttl)
  return 'run'
end

function ops.tell(tag, execution, attempt, first, count)
  tell(first, count)
  return 'ok'
end

ops['end'] = function(tag, execution, attempt, first, count)
  local known, state, owner, token = record(execution)
  local stale = known > attempt or (known == attempt and (owner ~= worker or token ~= tag))
  if not stale and not (known == attempt and state == 'finished') then
    tell(first, count)
    write(execution, attempt, 'finished', worker, tag, finished_ttl)
  end
  redis.call('HDEL', KEYS[2], tag)
  return stale and 'stale' or 'ok'
end

function ops.done(tag, execution, attempt, first, count)
  tell(first, count)
  redis.call('HDEL', KEYS[2], tag, tag .. '!')
  return 'ok'
end

local function release(tag, execution, attempt)
  local known, state, owner, token = record(execution)
  local ours = known == attempt and owner == worker and token == tag and state ~= 'finished'
  if ours then write(execution, attempt - 1, 'finished', '-', '-', running_ttl) end
  return ours
end

function ops.back(tag, execution, attempt)
  local value = redis.call('HGET', KEYS[2], tag)
  if not value then return 'gone' end
  local list, message = unpacked(value)
  local ours = execution == '' or release(tag, execution, attempt)
  if ours then
    redis.call('RPUSH', list, message)
    ring(queue_of(list))
  end
  redis.call('HDEL', KEYS[2], tag, tag .. '!')
  return ours and 'ok' or 'gone'
end

function ops.refuse(tag, execution, attempt, first, count)
  tell(first, count)
  release(tag, execution, attempt)
  redis.call('HDEL', KEYS[2], tag)
  return 'ok'
end

local i = 4
while i <= #ARGV do
  local count = tonumber(ARGV[i + 4])
  answers[#answers + 1] = ops[ARGV[i]](ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), i + 5, count)
  i = i + 5 + count
end
return answers
"""
)

#: KEYS run. ARGV execution, attempt that must not start, ttl (s). Answers "revoked", or how far a worker is:
#: "reserved", "running" or "finished".
REVOKE = (
    _COMMON
    + """
local known, state = record(ARGV[1])
if known >= tonumber(ARGV[2]) then return state end
write(ARGV[1], ARGV[2], 'revoked', '-', '-', ARGV[3])
return 'revoked'
"""
)

#: KEYS watch, workers set. ARGV lease (ms). Answers some workers that have been silent for longer than that.
#: Silence is not held against anybody while nobody could be heard: if no one has looked for a good part of a lease
#: (Redis was away, or everything was), it counts again a full lease later.
_SILENT = """
local function silent(watch, workers, lease)
  local now = milliseconds()
  local seen, from = unpack(redis.call('HMGET', watch, 'seen', 'from'))
  if not seen or now - tonumber(seen) > lease * 2 / 3 then from = now + lease end
  redis.call('HSET', watch, 'seen', now, 'from', from)
  if now < tonumber(from) then return {} end
  return redis.call('ZRANGEBYSCORE', workers, '-inf', now - lease, 'LIMIT', 0, 10)
end
"""

SILENT = _COMMON + _SILENT + "return silent(KEYS[1], KEYS[2], tonumber(ARGV[1]))"

#: KEYS fence, workers set, the worker's announcement, what it runs, watch. ARGV worker, lease (ms), what it runs
#: (JSON). Answers {0} if the worker is fenced and must end, {2} if it has to announce itself (again), else {1},
#: followed by the workers that are silent.
HEARTBEAT = (
    _COMMON
    + _SILENT
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return {0} end
local others = silent(KEYS[5], KEYS[2], tonumber(ARGV[2]))
redis.call('ZADD', KEYS[2], milliseconds(), ARGV[1])
redis.call('SET', KEYS[4], ARGV[3], 'PX', ARGV[2] * 2)
return {redis.call('PEXPIRE', KEYS[3], ARGV[2] * 2) == 0 and 2 or 1, unpack(others)}
"""
)

#: KEYS workers set, fence, announcement, what it runs, in-flight hash, events stream, poison list. ARGV worker,
#: lease (ms), ttl of the fence, of a run record and of a count of losses (s), data of a `lost` event, then the fields
#: of the `worker_lost` event. Answers 1 if the worker was silent and is fenced now, else 0. From that moment nothing
#: of it counts, and the events stand behind everything that it reported. What it had not started goes back to the
#: front of its lists; an attempt that may have started is lost. Foreign messages go back, started or not, except
#: one that has been started by too many workers that died: it is put aside.
REAP = (
    _COMMON
    + f"""
local worker = ARGV[1]
local heard = redis.call('ZSCORE', KEYS[1], worker)
if not heard or milliseconds() - heard < tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[2], '1', 'EX', ARGV[3])
redis.call('ZREM', KEYS[1], worker)
redis.call('DEL', KEYS[3], KEYS[4])
redis.call('XADD', KEYS[6], '*', unpack(ARGV, 7))

local function put_aside(list, message)
  local why = 'it was started by {MOST_LOSSES} workers that died'
  local data = {{reason = why, worker = worker, queue = queue_of(list)}}
  local readable, whole = pcall(cjson.decode, message)
  if readable and type(whole) == 'table' and type(whole.headers) == 'table' then
    data.message, data.task = whole.headers.id, whole.headers.task
  end
  redis.call('XADD', KEYS[6], '*', 'kind', 'poisoned', 'execution', '', 'attempt', 0, 'data', cjson.encode(data))
  redis.call('LPUSH', KEYS[7], cjson.encode({{reason = why, worker = worker, list = list, message = message}}))
  redis.call('LTRIM', KEYS[7], 0, {keys.MOST_POISON - 1})
end

local function is_poison(message)
  local key = '{keys.LOSSES.format(message="")}' .. redis.sha1hex(message)
  redis.call('SET', key, 0, 'EX', ARGV[5], 'NX')
  return redis.call('INCR', key) >= {MOST_LOSSES}
end

local function back(tag, value, started)
  local list, message = unpacked(value)
  local execution, attempt = attempt_of(message)
  if execution then
    local known, state, owner, token = record(execution)
    if known ~= attempt or owner ~= worker or token ~= tag or state == 'finished' then return end
    if state == 'running' then
      redis.call('XADD', KEYS[6], '*', 'kind', 'lost', 'execution', execution, 'attempt', attempt, 'data', ARGV[6])
      return
    end
    write(execution, attempt - 1, 'finished', '-', '-', ARGV[4])
  elseif started and is_poison(message) then
    put_aside(list, message)
    return
  end
  redis.call('RPUSH', list, message)
  ring(queue_of(list))
end

local flat, tags, values = redis.call('HGETALL', KEYS[5]), {{}}, {{}}
for i = 1, #flat, 2 do
  if tonumber(flat[i]) then tags[#tags + 1] = flat[i] end
  values[flat[i]] = flat[i + 1]
end
-- The last one pushed is the next one fetched.
table.sort(tags, function(one, other) return tonumber(one) > tonumber(other) end)
for _, tag in ipairs(tags) do back(tag, values[tag], values[tag .. '!']) end
redis.call('DEL', KEYS[5])
return 1
"""
)

#: KEYS run. ARGV execution, attempt, worker, token, state, ttl (s). Writes the record of an attempt that a worker
#: has in hand again after Redis lost its data, unless there is one.
RESTORE = (
    _COMMON
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
write(ARGV[1], ARGV[2], ARGV[5], ARGV[3], ARGV[4], ARGV[6])
return 1
"""
)

#: KEYS run, events stream. ARGV execution, attempt, ttl (s), then the fields of the `lost` event. Ends an attempt
#: that no worker knows of: whoever reports its end from now on is refused. Answers 1, or 0 if there is a newer one.
ABANDON = (
    _COMMON
    + """
if record(ARGV[1]) > tonumber(ARGV[2]) then return 0 end
write(ARGV[1], ARGV[2], 'finished', '-', '-', ARGV[3])
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 4))
return 1
"""
)
