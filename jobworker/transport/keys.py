"""Redis keys of JobWorker. The keys of Celery and RedBeat keep their own names."""

#: string: random id of this Redis data set; if it is missing or different, the data were lost.
EPOCH = "jw:epoch"

#: stream: events: state changes, progress and metadata from workers, due occurrences from beat. Trimmed up to the
#: offset that SQL has committed.
EVENTS = "jw:events"

#: stream: log lines, apart from EVENTS so that a flood delays no state change. Workers stop sending at 64 MiB.
LOGS = "jw:logs"

#: stream of at most one entry: the notification that SQL has changed. Losing it costs a second.
WAKE = "jw:wake"

#: sorted set: queue of a direct call → its time by the caller's clock (s since 1970).
CALLED_QUEUES = "jw:called_queues"

#: string: written by health checks to test whether Redis accepts writes. Expires.
PROBE = "jw:probe"

#: sorted set: worker id → Redis time (ms) of its last heartbeat.
WORKERS = "jw:workers"

#: string: task catalog with this digest, as JSON. Expires 7 days after the last announcement.
CATALOG = "jw:catalogue:{digest}"

#: string: a worker's announcement (`WorkerAnnouncement`, JSON). Each heartbeat compares it. Expires without heartbeats.
WORKER = "jw:worker:{worker}"

#: string: attempts that a worker runs, JSON list of [execution, attempt]. Written by each heartbeat.
RUNNING = "jw:running:{worker}"

#: string: marks a worker that was declared dead; its reports no longer count.
FENCE = "jw:fence:{worker}"

#: hash: execution → JSON [attempt, actor] of a worker's attempts that must stop. Expires.
ORDERS = "jw:orders:{worker}"

#: string: claim "<attempt> <state> <worker> <token>" of an execution's latest attempt. The state is running (also when
#: only fetched), finished or revoked; without a worker, its field is "-".
RUN = "jw:run:{execution}"

#: hash: messages that a worker has in flight: tag → "<length of the list's name>:<list's name><message>"; "!" → the
#: last tag that may have started; "?" → fetches with earlier tags are refused; "#" → number of the last recorded
#: report.
INFLIGHT = "jw:inflight:{worker}"

#: list of at most one wake-up token per queue, which wakes an idle worker after a message was published to the queue.
READY = "jw:ready:{queue}"

#: string: number of workers that died after they may have started this foreign message. Expires.
LOSSES = "jw:losses:{message}"

#: any type: value of another type that was found under a key of JobWorker; renamed so that nothing is lost.
ASIDE = "jw:aside:{key}"

#: list of the latest discarded messages, as JSON: the reason, and the message unchanged.
POISON = "jw:poison"

#: hash: `seen` is the time of the last check for silent workers (Redis time, ms), `from` the time from which silence
#: counts.
WATCH = "jw:watch"

#: hash: circuit breaker of an http.request target that failed: `failures` in a row, `until` when it is open, and
#: `trial` until when a trial request may take (Redis time, ms). Expires.
CIRCUIT = "jw:circuit:{target}"

#: hash: beat's leader, its last tick (Redis time, ms) and the version of its time zone data. Expires when beat stops.
BEAT = "jw:beat"

#: hash: RedBeat key of an entry that beat cannot use → the reason, as JSON. The projection deletes the field when it
#: repairs the entry.
BEAT_QUARANTINE = "jw:beat:quarantine"

#: hash: schedule id → "<revision>.<revisions of its calendars> <SHA-1 of the definition>" as written by the projection.
#: If it is missing, Redis lost the schedule.
BEAT_PROJECTION = "jw:beat:projection"

#: Maximum number of messages in POISON.
MAX_POISON = 1000

#: Lifetime of a message's count of worker deaths (s).
LOSSES_TTL = 7 * 24 * 3600

#: Lifetime of the claim of a finished attempt (s), to refuse late copies of its message.
FINISHED_TTL = 900

#: Lifetime of a stop request that is not repeated (s).
ORDERS_TTL = 60

#: Lifetime of the claim of a running attempt that never ends (s).
RUNNING_TTL = 30 * 24 * 3600

#: Lifetime of a worker's fence (s).
FENCE_TTL = 24 * 3600
