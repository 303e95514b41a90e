"""Scripts by which a worker fetches, reports on and acknowledges messages."""

from jobworker.transport.scripts.common import COMMON, IS_BEHIND

#: KEYS fence, workers set, in-flight hash, events stream. ARGV worker, first tag, number of messages, number of them
#: that may start at once, ttl of a claim (s), then (queue, share) of each queue in the order of preference. Moves
#: messages into the in-flight hash: from each queue its share, urgent ones first, then from any queue. Each attempt is
#: claimed; a copy of an attempt that is claimed or finished is dropped. Returns {"ok", tag, queue, message, …},
#: {"fenced"}, {"unknown"} (the worker must announce itself first), {"late"} (the worker no longer waits for this
#: response: see `ADOPT`) or {"behind"} (no new attempt may start until a relay has read events). A queue that still has
#: messages keeps a token, so that one more worker wakes up. The field "!" of the in-flight hash is the last tag that
#: may start; messages with later tags have certainly not started. A message that leaves its list is in the hash before
#: anything else happens to it, so an error of the script loses nothing.
FETCH = (
    COMMON
    + IS_BEHIND
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return {'fenced'} end
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {'unknown'} end
if is_behind(KEYS[4]) then return {'behind'} end
local worker, tag, wanted, starting, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
if tag < number_of(KEYS[3], '?') then return {'late'} end
local answer, copies, broken, taken = {'ok'}, {}, {}, ' running ' .. worker .. ' '
local mark = starting > 0 and {'!', tag + starting - 1} or {}

local function is_copy(message, number)
  local execution, attempt = attempt_of(message)
  if not execution then return false end
  local known = exchange(execution, attempt .. taken .. number, ttl)
  if read(known) < attempt then return false end
  redis.call('SET', run_key(execution), known, 'EX', ttl)
  report_lost_once(execution, attempt, KEYS[4], ttl)
  return true
end

local function keep(queue, list, messages)
  local fields = {unpack(mark)}
  for i, message in ipairs(messages) do
    fields[#fields + 1] = tag + i - 1
    fields[#fields + 1] = #list .. ':' .. list .. message
  end
  redis.call('HSET', KEYS[3], unpack(fields))
  for _, message in ipairs(messages) do
    if is_copy(message, tag) then copies[#copies + 1] = tag
    else
      local last = #answer
      answer[last + 1], answer[last + 2], answer[last + 3] = tostring(tag), queue, message
    end
    tag, wanted = tag + 1, wanted - 1
  end
end

local function take(queue, count)
  for _, list in ipairs(lists_of(queue)) do
    local messages = count > 0 and redis.pcall('RPOP', list, count)
    if messages and messages.err then broken[queue] = true
    elseif messages then
      count = count - #messages
      keep(queue, list, messages)
    end
  end
end

local filled, empty = {}, {}
for i = 6, #ARGV, 2 do
  local queue = ARGV[i]
  if redis.call('EXISTS', unpack(lists_of(queue))) > 0 then
    filled[#filled + 1] = queue
    take(queue, math.min(tonumber(ARGV[i + 1]), wanted))
  else empty[#empty + 1] = ready_key(queue) end
end
for _, queue in ipairs(filled) do
  if wanted > 0 then take(queue, wanted) end
  -- No worker needs to wake up for a key that is not a list.
  if not broken[queue] and redis.call('EXISTS', unpack(lists_of(queue))) > 0 then notify(queue)
  else empty[#empty + 1] = ready_key(queue) end
end
if #empty > 0 then redis.call('DEL', unpack(empty)) end
if #copies > 0 then redis.call('HDEL', KEYS[3], unpack(copies)) end
return answer
"""
)

#: KEYS in-flight hash. ARGV the next tag that the worker will use. Returns the worker's in-flight messages. A fetch
#: with earlier tags that arrives only now, over an abandoned connection, fetches nothing. Works when Redis is full,
#: too: after a command that needs no memory, Redis permits the others.
ADOPT = """
redis.call('HDEL', KEYS[1], '?')
redis.call('HSET', KEYS[1], '?', ARGV[1])
return redis.call('HGETALL', KEYS[1])
"""

#: KEYS fence, in-flight hash, events stream. ARGV worker, ttl of the claim of a running and of a finished attempt (s),
#: the last tag that may start from now on ("" if unchanged), the number of the first report (each worker counts its
#: own; reports that were recorded are skipped when only the response was lost), or 0 not to count; then any number of
#: (operation, tag, execution, attempt, kind of an event or "", its data):
#:   `claim` may an attempt that was not fetched by `FETCH` start here? → "run", "duplicate", "stale" or "revoked"
#:   `tell`  add the event                                              → "ok"
#:   `end`   the attempt ended, message done         → "ok" (also when repeated) or "stale"; adds the event unless stale
#:   `done`  message done, without an attempt; adds the event, if any   → "ok"
#:   `back`  not started, returns to the front of its list              → "ok" or "gone"
#:   `refuse` cannot start here, message done; the event requests another worker → "ok"
#: Returns one word for each, or {"fenced"}: then nothing was done. All or nothing also when Redis is full: the first
#: command that needs memory fails before anything was written, as long as a relay can free memory by reading events.
#: If there are no events, the in-flight messages may be what fills Redis, and only their ends free memory: then the
#: call is permitted, because Redis refuses no command that follows one that needs no memory.
FLUSH = (
    COMMON
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return {'fenced'} end
if redis.pcall('XLEN', KEYS[3]) == 0 then redis.pcall('HDEL', KEYS[2], '') end
local worker, running_ttl, finished_ttl = ARGV[1], ARGV[2], ARGV[3]
local number, recorded = tonumber(ARGV[5]), number_of(KEYS[2], '#')
local answers, ops, done = {}, {}, {}

local function tell(execution, attempt, kind, data)
  if kind == '' then return end
  redis.call('XADD', KEYS[3], '*', 'kind', kind, 'execution', execution, 'attempt', attempt, 'data', data)
end

local function mine(attempt, state, tag)
  return attempt .. ' ' .. state .. ' ' .. worker .. ' ' .. tag
end

-- If the claim is missing or older, Redis lost its data, or no worker has claimed the attempt: the worker may start it.
function ops.claim(tag, execution, attempt)
  local known, state, owner, token = record(execution)
  if known > tonumber(attempt) then return 'stale' end
  if known == tonumber(attempt) then
    if state == 'revoked' or state == 'finished' then return state == 'revoked' and 'revoked' or 'stale' end
    if owner ~= worker or token ~= tag then
      report_lost_once(execution, attempt, KEYS[3], running_ttl)
      return 'duplicate'
    end
  end
  redis.call('SET', run_key(execution), mine(attempt, 'running', tag), 'EX', running_ttl)
  return 'run'
end

function ops.tell(tag, execution, attempt, kind, data)
  tell(execution, attempt, kind, data)
  return 'ok'
end

ops['end'] = function(tag, execution, attempt, kind, data)
  done[#done + 1] = tag
  local over = mine(attempt, 'finished', tag)
  local known = exchange(execution, over, finished_ttl)
  if known == over then return 'ok' end
  if known ~= mine(attempt, 'running', tag) and read(known) >= tonumber(attempt) then
    redis.call('SET', run_key(execution), known, 'EX', running_ttl)
    return 'stale'
  end
  local added, why = pcall(tell, execution, attempt, kind, data)
  if not added then
    if known then redis.call('SET', run_key(execution), known, 'EX', running_ttl)
    else redis.call('DEL', run_key(execution)) end
    error(why)
  end
  return 'ok'
end

function ops.done(tag, execution, attempt, kind, data)
  tell(execution, attempt, kind, data)
  done[#done + 1] = tag
  return 'ok'
end

local function release(tag, execution, attempt)
  local ours = redis.pcall('GET', run_key(execution)) == mine(attempt, 'running', tag)
  if ours then write(execution, attempt - 1, 'finished', '-', '-', running_ttl) end
  return ours
end

function ops.back(tag, execution, attempt)
  local value = redis.call('HGET', KEYS[2], tag)
  if not value then return 'gone' end
  local list, message = unpacked(value)
  if not list then
    done[#done + 1] = tag
    return 'gone'
  end
  local ours = execution == '' or release(tag, execution, attempt)
  if ours then return_message(list, message) end
  done[#done + 1] = tag
  return ours and 'ok' or 'gone'
end

function ops.refuse(tag, execution, attempt, kind, data)
  tell(execution, attempt, kind, data)
  release(tag, execution, attempt)
  done[#done + 1] = tag
  return 'ok'
end

for i = 6, #ARGV, 6 do
  if number > 0 and number + #answers <= recorded then answers[#answers + 1] = 'ok'
  else answers[#answers + 1] = ops[ARGV[i]](ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]) end
end
if #done > 0 then redis.call('HDEL', KEYS[2], unpack(done)) end
local marks = {}
if ARGV[4] ~= '' then marks = {'!', ARGV[4]} end
if number > 0 and number + #answers - 1 > recorded then
  marks[#marks + 1], marks[#marks + 2] = '#', number + #answers - 1
end
if #marks > 0 then redis.call('HSET', KEYS[2], unpack(marks)) end
return answers
"""
)
