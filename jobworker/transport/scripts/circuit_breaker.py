"""The circuit of a target that several workers speak with: whether it may be asked, and what came of it."""

#: What both need: the time by Redis's clock (ms).
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

#: KEYS circuit. ARGV how long a trial may take (ms), how soon to look again at what came of it (ms). Answers 0: go
#: ahead; or how long to wait (ms). When the pause is over one trial is let through at a time.
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

#: KEYS circuit. ARGV failures that open it, pause (ms), how long a failure is remembered (ms). Answers how many
#: failures there have been in a row.
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
