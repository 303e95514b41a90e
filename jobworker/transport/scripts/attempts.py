"""What is decided about an attempt from outside the worker that may have it."""

from jobworker.transport.scripts.common import COMMON

#: KEYS run. ARGV execution, attempt that must not start, ttl (s). Answers "revoked", or how far a worker is:
#: "running" (it may also only have been fetched) or "finished". Also when Redis is full: DEL needs no memory, and what
#: follows a command that has written is let through.
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

#: KEYS run. ARGV execution, attempt, worker, token, ttl (s). Writes the record of an attempt that a worker
#: has in hand again after Redis lost its data, unless there is one.
RESTORE = (
    COMMON
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
write(ARGV[1], ARGV[2], 'running', ARGV[3], ARGV[4], ARGV[5])
return 1
"""
)

#: KEYS run, events stream. ARGV execution, attempt, ttl (s), then the fields of the `lost` event. Ends an attempt
#: that no worker knows of: whoever reports its end from now on is refused. Answers 1, or 0 if there is a newer one.
ABANDON = (
    COMMON
    + """
if record(ARGV[1]) > tonumber(ARGV[2]) then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 4))
write(ARGV[1], ARGV[2], 'finished', '-', '-', ARGV[3])
return 1
"""
)

#: KEYS lists of messages. ARGV how many of each are looked at, from the next to go on. Takes ours out and answers their
#: executions and attempts, but for copies of what a worker has or had: they are dropped. Messages of others stay, in
#: their order. What is no list is left alone. Also when Redis is full: after a command that needs no memory the others
#: are let through.
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
