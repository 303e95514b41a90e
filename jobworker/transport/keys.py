"""Every Redis key that JobWorker itself uses. Celery's and RedBeat's own keys keep their own names."""

#: string: random id of this Redis data set; gone or different = the data were lost.
EPOCH = "jw:epoch"

#: stream: changes of state from workers, due occurrences from beat. Trimmed up to what SQL has committed.
EVENTS = "jw:events"

#: stream: log lines and progress, apart from EVENTS so that a flood delays no change of state.
LOGS = "jw:logs"

#: stream of at most one entry: "there is something new in SQL". Losing it costs a second.
WAKE = "jw:wake"

#: sorted set: worker id → Redis time (ms) of its last heartbeat.
WORKERS = "jw:workers"

#: hash: code version and, as JSON, the tasks that workers of this digest offer.
CATALOGUE = "jw:catalogue:{digest}"

#: hash: what a worker says of itself (`announcement`, JSON). Expires when heartbeats stop.
WORKER = "jw:worker:{worker}"

#: string: what a worker runs at present, JSON list of [execution, attempt]. Written by each heartbeat.
RUNNING = "jw:running:{worker}"

#: string: this worker was declared dead; nothing that it reports counts any more.
FENCE = "jw:fence:{worker}"

#: hash: attempt, worker, token, state (running | finished | revoked) of an execution's latest attempt.
RUN = "jw:run:{execution}"

#: hash: leader and its last tick (Redis time, ms). Expires when beat stops.
BEAT = "jw:beat"

#: hash: RedBeat key of an entry that beat cannot use → why, as JSON. The projection takes it out when it heals it.
BEAT_QUARANTINE = "jw:beat:quarantine"

#: hash: schedule id → fingerprint of what the projection wrote for it. Gone = Redis lost the schedule.
BEAT_PROJECTION = "jw:beat:projection"

#: A finished attempt is remembered so long (s), to refuse late copies of its message.
FINISHED_TTL = 900

#: A running attempt that nobody ever ends is forgotten after so long (s).
RUNNING_TTL = 30 * 24 * 3600

#: A fenced worker is remembered so long (s).
FENCE_TTL = 24 * 3600
