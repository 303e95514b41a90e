"""Scripts for the circuit breaker of a target that several workers send requests to."""

#: Lua. The time by Redis's clock (ms), which both scripts need.
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

#: KEYS circuit. ARGV maximum duration of a trial request (ms), interval at which other callers check again during a
#: trial (ms). Returns 0 if a request is permitted, or the time to wait (ms). After the pause, one trial at a time is
#: permitted.
ACQUIRE_PERMISSION = (
    _NOW
    + """
local open_until, trial_until = unpack(redis.call('HMGET', KEYS[1], 'until', 'trial'))
if not open_until then return 0 end
if now < tonumber(open_until) then return open_until - now end
if now < tonumber(trial_until or 0) then return tonumber(ARGV[2]) end
redis.call('HSET', KEYS[1], 'trial', now + ARGV[1])
return 0
"""
)

#: KEYS circuit. ARGV failures that open it, pause (ms), lifetime of a recorded failure (ms). Returns the number of
#: failures in a row.
RECORD_FAILURE = (
    _NOW
    + """
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
if failures >= tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'until', now + ARGV[2])
  redis.call('HDEL', KEYS[1], 'trial')
end
redis.call('PEXPIRE', KEYS[1], ARGV[3] + ARGV[2])
return failures
"""
)
