"""Shared parts of the scripts: the names of lists, and the claim of an execution's latest attempt."""

from jobworker.transport import keys

#: kombu's names: one list per queue and priority step, 0 the most urgent.
PRIORITY_STEPS = (0, 3, 6, 9)
SEPARATOR = "\x06\x16"

#: Number of events above which the relay is far behind or down, number above which their size is checked, and maximum
#: size (bytes): beyond these limits, no new attempt may start.
_MAX_EVENTS, _SIZE_CHECK_EVENTS, _MAX_EVENT_BYTES = 100_000, 10_000, 256 * 1024 * 1024

#: Lua. Returns whether the event stream is so large that it must not grow further.
IS_BEHIND = f"""
local function is_behind(events)
  local length = redis.pcall('XLEN', events)
  if type(length) == 'table' or length <= {_SIZE_CHECK_EVENTS} then return false end
  return length > {_MAX_EVENTS} or redis.call('MEMORY', 'USAGE', events, 'SAMPLES', 5) > {_MAX_EVENT_BYTES}
end
"""

#: Lua. A claim is "<attempt> <state> <worker> <token>". A script that marks an attempt as finished adds the event
#: first, or reverts the mark, for two reasons: the stream may refuse the event (another program may have replaced the
#: key), and the event of a finished attempt is not added again.
COMMON = f"""
local function run_key(execution) return '{keys.RUN.format(execution="")}' .. execution end
local function ready_key(queue) return '{keys.READY.format(queue="")}' .. queue end

-- Returns attempt -1 for a text that is not a claim, or a key of another type, as if there were none. An error would
-- stop the script half-way, and Redis would keep the writes made by then.
local function read(text)
  if type(text) ~= 'string' then return -1, '', '', '' end
  local attempt, state, worker, token = string.match(text, '^(%d+) (%a+) (%S+) (%S+)$')
  if state ~= 'running' and state ~= 'finished' and state ~= 'revoked' then return -1, '', '', '' end
  return tonumber(attempt), state, worker, token
end

local function record(execution) return read(redis.pcall('GET', run_key(execution))) end

-- Writes a claim and returns the text of the previous one.
local function exchange(execution, text, ttl)
  local known = redis.pcall('SET', run_key(execution), text, 'EX', ttl, 'GET')
  if type(known) ~= 'table' then return known end
  if string.find(known.err, 'WRONGTYPE', 1, true) then
    redis.call('SET', run_key(execution), text, 'EX', ttl)
    return false
  end
  error(known.err)
end

local function write(execution, attempt, state, worker, token, ttl)
  local text = table.concat({{attempt, state, worker, token}}, ' ')
  redis.call('SET', run_key(execution), text, 'EX', ttl)
end

-- Reports an attempt as lost, once, when a copy of its message appears and its worker was fenced. No other script would
-- report it, because its message was not in the worker's in-flight hash, as the transport keeps it.
local function report_lost_once(execution, attempt, events, ttl)
  local same, state, owner = record(execution)
  if same ~= tonumber(attempt) or state ~= 'running' then return end
  if redis.call('EXISTS', '{keys.FENCE.format(worker="")}' .. owner) == 0 then return end
  local data = cjson.encode({{worker = owner, reason = 'its worker stopped responding'}})
  redis.call('XADD', events, '*', 'kind', 'lost', 'execution', execution, 'attempt', attempt, 'data', data)
  write(execution, attempt, 'finished', '-', '-', ttl)
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

local function discard(list, message, why)
  redis.call('LPUSH', '{keys.POISON}', cjson.encode({{reason = why, list = list, message = message}}))
  redis.call('LTRIM', '{keys.POISON}', 0, {keys.MAX_POISON - 1})
end

-- A key that is not a list of tokens is replaced: otherwise the script would fail at every message of the queue.
local function notify(queue)
  local key = ready_key(queue)
  local tokens = redis.pcall('LLEN', key)
  if type(tokens) == 'table' then redis.call('DEL', key) end
  if tokens ~= 0 and type(tokens) ~= 'table' then return end
  redis.call('LPUSH', key, '1')
end

-- Returns a message to the front of its list. If the key is not a list any more, the message goes to the discarded
-- ones.
local function return_message(list, message)
  local pushed = redis.pcall('RPUSH', list, message)
  if type(pushed) == 'table' and pushed.err then
    if not string.find(pushed.err, 'WRONGTYPE', 1, true) then error(pushed.err) end
    discard(list, message, 'its queue is not a list any more')
  else
    notify(queue_of(list))
  end
end

-- Returns list and message of an in-flight entry; nothing for a text that no fetch has written.
local function unpacked(value)
  local digits, rest = string.match(value, '^(%d+):(.*)$')
  if not digits or tonumber(digits) > #rest then return end
  return string.sub(rest, 1, tonumber(digits)), string.sub(rest, tonumber(digits) + 1)
end

-- Returns a field of a worker's in-flight hash as a number; 0 if it is not a number. A key of another type is renamed.
local function number_of(key, field)
  local value = redis.pcall('HGET', key, field)
  if type(value) == 'table' and value.err then
    redis.call('RENAME', key, '{keys.ASIDE.format(key="")}' .. key)
    return 0
  end
  return tonumber(value or 0) or 0
end

local function milliseconds()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
"""
