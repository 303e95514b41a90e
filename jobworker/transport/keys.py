"""Every Redis key that JobWorker itself uses. Celery's and RedBeat's own keys keep their own names."""

#: string: random id of this Redis data set; gone or different = the data were lost.
EPOCH = "jw:epoch"

#: stream: changes of state, progress and metadata from workers, due occurrences from beat. Trimmed up to what SQL has
#: committed.
EVENTS = "jw:events"

#: stream: log lines, apart from EVENTS so that a flood delays no change of state. Workers hold back at 64 MiB.
LOGS = "jw:logs"

#: stream of at most one entry: "there is something new in SQL". Losing it costs a second.
WAKE = "jw:wake"

#: sorted set: queue that a task was called into from Python → when, by the caller's clock (s since 1970).
CALLED_QUEUES = "jw:called_queues"

#: string: what health checks write, to see whether Redis takes writes. Expires.
PROBE = "jw:probe"

#: sorted set: worker id → Redis time (ms) of its last heartbeat.
WORKERS = "jw:workers"

#: string: the tasks that workers of this digest offer, as JSON. Expires 7 days after the last announcement.
CATALOGUE = "jw:catalogue:{digest}"

#: string: what a worker says of itself (`Announcement`, JSON). Each heartbeat compares it. Expires when they stop.
WORKER = "jw:worker:{worker}"

#: string: what a worker runs at present, JSON list of [execution, attempt]. Written by each heartbeat.
RUNNING = "jw:running:{worker}"

#: string: this worker was declared dead; nothing that it reports counts any more.
FENCE = "jw:fence:{worker}"

#: hash: execution → JSON [attempt, who asked] of what this worker runs and has to stop. Expires.
ORDERS = "jw:orders:{worker}"

#: string: "<attempt> <state> <worker> <token>" of an execution's latest attempt; running (also when it was only
#: fetched), finished or revoked; "-" where there is no worker.
RUN = "jw:run:{execution}"

#: hash: what a worker has fetched and not acknowledged: tag → "<length of the list's name>:<list's name><message>";
#: "!" → the last tag that may have started; "?" → fetches with earlier tags come too late; "#" → reports taken.
INFLIGHT = "jw:inflight:{worker}"

#: list of at most one token per queue: something was published to it; idle workers wait for it.
READY = "jw:ready:{queue}"

#: string: how many workers died with this message in hand before it started. Expires.
LOSSES = "jw:losses:{message}"

#: any type: what was found under another key of JobWorker's and is of another type; renamed so that nothing is lost.
ASIDE = "jw:aside:{key}"

#: list of the latest messages that were given up, as JSON: why, and the message as it was.
POISON = "jw:poison"

#: hash: `seen` (Redis time, ms) when anybody last looked for silent workers, and `from` when silence counts again.
WATCH = "jw:watch"

#: hash: of a target of http.request that failed: `failures` in a row, `until` when it is left alone and `trial` until
#: when somebody tries whether it is well again (Redis time, ms). Expires.
CIRCUIT = "jw:circuit:{target}"

#: hash: leader, its last tick (Redis time, ms) and the version of its time zone data. Expires when beat stops.
BEAT = "jw:beat"

#: hash: RedBeat key of an entry that beat cannot use → why, as JSON. The projection takes it out when it heals it.
BEAT_QUARANTINE = "jw:beat:quarantine"

#: hash: schedule id → "<revision>.<revisions of its calendars> <SHA-1 of the definition>" that the projection wrote for
#: it. Gone = Redis lost the schedule.
BEAT_PROJECTION = "jw:beat:projection"

#: Messages that POISON keeps.
MAX_POISON = 1000

#: A worker's death is held against its messages so long (s).
LOSSES_TTL = 7 * 24 * 3600

#: A finished attempt is remembered so long (s), to refuse late copies of its message.
FINISHED_TTL = 900

#: An order that nobody repeats is forgotten after so long (s).
ORDERS_TTL = 60

#: A running attempt that nobody ever ends is forgotten after so long (s).
RUNNING_TTL = 30 * 24 * 3600

#: A fenced worker is remembered so long (s).
FENCE_TTL = 24 * 3600
