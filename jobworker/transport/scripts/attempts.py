"""Scripts that change claims from outside the worker that may hold them."""

from jobworker.transport.scripts.common import COMMON

#: KEYS run. ARGV execution, attempt that must not start, ttl (s). Returns "revoked", or the progress of the attempt:
#: "running" (it may also only have been fetched) or "finished". Works when Redis is full, too: DEL needs no memory, and
#: Redis permits the commands that follow a write.
REVOKE = (
    COMMON
    + """
local known, state = record(ARGV[1])
if known >= tonumber(ARGV[2]) then return state end
redis.call('DEL', KEYS[1])
write(ARGV[1], ARGV[2], 'revoked', '-', '-', ARGV[3])
return 'revoked'
"""
)

#: KEYS run. ARGV execution, attempt, worker, token, ttl (s). Writes the claim of an attempt that a worker has in flight
#: again after Redis lost its data, unless there is one.
RESTORE = (
    COMMON
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
write(ARGV[1], ARGV[2], 'running', ARGV[3], ARGV[4], ARGV[5])
return 1
"""
)

#: KEYS run, events stream. ARGV execution, attempt, ttl (s), then the fields of the `lost` event. Ends an attempt that
#: no worker runs; later reports of its end are refused. Returns 1, or 0 if there is a newer attempt.
ABANDON = (
    COMMON
    + """
if record(ARGV[1]) > tonumber(ARGV[2]) then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 4))
write(ARGV[1], ARGV[2], 'finished', '-', '-', ARGV[3])
return 1
"""
)

#: KEYS lists of messages. ARGV how many messages of each list are scanned, from the next one to fetch. Removes
#: JobWorker's messages and returns their executions and attempts, except for copies of messages that a worker has or
#: had: they are dropped. Foreign messages stay, in their order. Keys that are not lists are skipped. Works when Redis
#: is full, too: after a command that needs no memory, Redis permits the others.
WITHDRAW = (
    COMMON
    + """
local taken = {}
for _, list in ipairs(KEYS) do
  local messages, others = redis.pcall('LRANGE', list, -ARGV[1], -1), {}
  for _, message in ipairs(messages.err and {} or messages) do
    local execution, attempt = attempt_of(message)
    if not execution then others[#others + 1] = message
    elseif record(execution) < attempt then
      taken[#taken + 1], taken[#taken + 2] = execution, tostring(attempt)
    end
  end
  if not messages.err and #others < #messages then
    redis.call('LTRIM', list, 0, -#messages - 1)
    for _, message in ipairs(others) do redis.call('RPUSH', list, message) end
  end
end
return taken
"""
)
