"""How a worker gets messages, and how it gets rid of them."""

from jobworker.transport.scripts.common import COMMON

#: KEYS fence, workers set, in-flight hash. ARGV worker, first tag, how many, how many of them may start at once, ttl
#: of a record (s), then (queue, share) of each queue in the order of preference. Moves messages into the in-flight
#: hash: of each queue its share, urgent ones first, then whatever there is. The attempts that may start at once are
#: marked running, the others reserved. A copy of an attempt that is taken or over is dropped. Answers
#: {"ok", tag, queue, message, …}, {"fenced"} or {"unknown"} (announce yourself first). A queue in which something
#: remains keeps a token, so that one more worker wakes up. A foreign message that may start has a field "<tag>!".
FETCH = (
    COMMON
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
    COMMON
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
