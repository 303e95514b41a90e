"""What happens in Redis in one step. Each script names its keys and says what it answers.

All of them use Redis's own clock (TIME), never a host's.
"""

#: KEYS run, fence, events stream. ARGV attempt, worker, token, running ttl (s), then the
#: fields of the `running` event. Answers "run", or why not: "duplicate", "stale", "revoked", "fenced".
CLAIM = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 'fenced' end
local known = redis.call('HMGET', KEYS[1], 'attempt', 'token', 'state')
local attempt = tonumber(known[1] or '-1')
if attempt > tonumber(ARGV[1]) then return 'stale' end
if attempt == tonumber(ARGV[1]) then
  if known[3] == 'revoked' then return 'revoked' end
  if known[3] == 'running' and known[2] == ARGV[3] then return 'run' end
  return 'duplicate'
end
redis.call('HSET', KEYS[1], 'attempt', ARGV[1], 'worker', ARGV[2], 'token', ARGV[3], 'state', 'running')
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('XADD', KEYS[3], '*', unpack(ARGV, 5))
return 'run'
"""

#: KEYS run, fence, events stream. ARGV attempt, worker, token, finished ttl (s), then the fields of the
#: event that ends the attempt. Answers "ok" (also when told twice), "stale" or "fenced".
#: A missing or older record means that Redis lost its data, or that the attempt ended before it was claimed:
#: the report counts, and a copy of the message will not run.
FINISH = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 'fenced' end
local known = redis.call('HMGET', KEYS[1], 'attempt', 'token', 'state')
local attempt = tonumber(known[1] or '-1')
if attempt > tonumber(ARGV[1]) then return 'stale' end
if attempt == tonumber(ARGV[1]) then
  if known[2] ~= ARGV[3] then return 'stale' end
  if known[3] == 'finished' then return 'ok' end
end
redis.call('HSET', KEYS[1], 'attempt', ARGV[1], 'worker', ARGV[2], 'token', ARGV[3], 'state', 'finished')
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('XADD', KEYS[3], '*', unpack(ARGV, 5))
return 'ok'
"""

#: KEYS run. ARGV attempt that must not start, ttl (s). Answers "revoked", or "running" / "finished" when
#: a worker was faster.
REVOKE = """
local known = redis.call('HMGET', KEYS[1], 'attempt', 'state')
if tonumber(known[1] or '-1') >= tonumber(ARGV[1]) then return known[2] end
redis.call('HSET', KEYS[1], 'attempt', ARGV[1], 'worker', '', 'token', '', 'state', 'revoked')
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 'revoked'
"""

#: KEYS fence, workers set, the worker's announcement, what it runs. ARGV worker, lease (ms), what it runs
#: (JSON). Answers 0 if the worker is fenced and must end, 2 if it has to announce itself (again), else 1.
HEARTBEAT = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local now = redis.call('TIME')
redis.call('ZADD', KEYS[2], now[1] * 1000 + math.floor(now[2] / 1000), ARGV[1])
redis.call('SET', KEYS[4], ARGV[3], 'PX', ARGV[2] * 2)
if redis.call('PEXPIRE', KEYS[3], ARGV[2] * 2) == 0 then return 2 end
return 1
"""

#: KEYS workers set, fence, the worker's announcement, events stream. ARGV worker, lease (ms), fence ttl (s),
#: then the fields of the `worker_lost` event. Answers 1 if the worker was silent and is fenced now, else 0.
#: From that moment nothing of the worker counts, and the event stands behind everything that it reported.
FENCE = """
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
local now = redis.call('TIME')
if not score or now[1] * 1000 + math.floor(now[2] / 1000) - score < tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[2], '1', 'EX', ARGV[3])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[3])
redis.call('XADD', KEYS[4], '*', unpack(ARGV, 4))
return 1
"""

#: KEYS run. ARGV attempt, worker, token, ttl (s). Writes the record of a running attempt again after Redis
#: lost its data, unless there is a newer one.
RESTORE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'attempt', ARGV[1], 'worker', ARGV[2], 'token', ARGV[3], 'state', 'running')
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""

#: KEYS run, events stream. ARGV attempt, ttl (s), then the fields of the `lost` event. Ends an attempt that
#: no worker knows of: whoever reports its end from now on is refused. Answers 1, or 0 if there is a newer one.
ABANDON = """
local attempt = tonumber(redis.call('HGET', KEYS[1], 'attempt') or '-1')
if attempt > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'attempt', ARGV[1], 'worker', '', 'token', '', 'state', 'finished')
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))
return 1
"""
