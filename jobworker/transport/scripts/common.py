"""What several scripts share: the names of lists, and the record of an execution's latest attempt."""

from jobworker.transport import keys

#: kombu's names: one list per queue and priority step, 0 the most urgent.
PRIORITY_STEPS = (0, 3, 6, 9)
SEPARATOR = "\x06\x16"

#: Lua. A run record is "<attempt> <state> <worker> <token>".
COMMON = f"""
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

-- A copy of an attempt came up whose worker was given up. Nobody else may know (it was not among the messages that its
-- worker had in hand, as our transport keeps them), so it is said here, once, that the attempt is lost.
local function mourn(execution, attempt, known, events, ttl)
  local same, owner = string.match(known, '^(%d+) running (%S+) ')
  if tonumber(same) ~= tonumber(attempt) then return end
  if redis.call('EXISTS', '{keys.FENCE.format(worker="")}' .. owner) == 0 then return end
  write(execution, attempt, 'finished', '-', '-', ttl)
  local data = cjson.encode({{worker = owner, reason = 'its worker stopped responding'}})
  redis.call('XADD', events, '*', 'kind', 'lost', 'execution', execution, 'attempt', attempt, 'data', data)
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
