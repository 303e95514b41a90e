"""Tables of jobs, tasks, workers, queues and executions, and the metadata of the whole schema.

The result of `migrations/` must equal this schema; a test compares the two.
"""

import sqlalchemy as sa

from jobworker.store.database.columns import BigId, Json, UtcDateTime, build_partial_index
from jobworker.store.database.columns import metadata as metadata
from jobworker.store.tables import dependencies, schedules  # noqa: F401  the import adds their tables to `metadata`

#: Conditions of partial indexes. A query must repeat the exact text for SQLite to use the index. The empty string keeps
#: its planner from choosing ix_executions_state instead, which would read the whole backlog.
READY = "state || '' = 'Queued' AND dispatched_at IS NULL"
READY_UNLIMITED = f"{READY} AND limit_key IS NULL"
READY_LIMITED = f"{READY} AND limit_key IS NOT NULL"
PUBLISHED = "state || '' = 'Queued' AND dispatched_at IS NOT NULL"
HELD_BACK = "state || '' IN ('Waiting', 'Scheduled', 'Retrying')"
WAITING_FOR_TIME = "state || '' IN ('Scheduled', 'Retrying')"
RUNNING = "state || '' = 'Running'"
SUCCEEDED = "state || '' = 'Succeeded'"
HOLDING_SLOT = (
    "(state || '' = 'Running' OR state || '' = 'Queued' AND dispatched_at IS NOT NULL) AND concurrency_key IS NOT NULL"
)
PUBLISHED_RATE_LIMITED = f"{PUBLISHED} AND rate_key IS NOT NULL"
QUEUED_CANCEL_REQUESTED = "state || '' = 'Queued' AND cancel_requested_at IS NOT NULL"
EXPIRING = "expires_at IS NOT NULL AND attempt = 0 AND dispatched_at IS NULL AND finished_at IS NULL"
OPEN_DEAD_LETTER = "dead_letter || '' = 'open'"
UNFINISHED_OF_SCHEDULE = "schedule_id IS NOT NULL AND finished_at IS NULL"
STARTED_CANCEL_REQUESTED = "state || '' IN ('Running', 'Retrying') AND cancel_requested_at IS NOT NULL"

#: Current revision of each job. `definition` is `domain.jobs.definition.JobDefinition` as JSON.
job_definitions = sa.Table(
    "job_definitions",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("task", sa.String(255), nullable=False),
    sa.Column("owner", sa.String(16), nullable=False),
    sa.Column("definition", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
)

#: All revisions of jobs; they outlive their job, so numbers are never reused.
job_revisions = sa.Table(
    "job_revisions",
    metadata,
    sa.Column("job", sa.String(128), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("definition", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
)

#: Tasks that workers can run. `parameters` is a list of `domain.jobs.parameters.Parameter` as JSON; `options` are
#: Celery's. `package`: package imported by the worker that announced the task (NULL: no worker has); `removed_at`: time
#: since which no worker declares the task.
tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("parameters", Json, nullable=False),
    sa.Column("options", Json, nullable=False),
    sa.Column("code_version", sa.String(64), nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("package", sa.String(255)),
    sa.Column("removed_at", UtcDateTime),
)

#: Workers that have registered. `gone_at`: time when the worker stopped or was declared lost. `zone_data`: version of
#: its time zone data.
workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.String(255), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("pool", sa.String(32), nullable=False),
    sa.Column("concurrency", sa.Integer, nullable=False),
    sa.Column("queues", Json, nullable=False),
    sa.Column("tasks", Json, nullable=False),
    sa.Column("code_version", sa.String(64), nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
    sa.Column("gone_at", UtcDateTime),
    sa.Column("zone_data", sa.String(64)),
    build_partial_index("ix_workers_live", "id", where="gone_at IS NULL"),
)

#: Queues besides the default ones. `created_by`: actor that created the queue explicitly; a row without it was added
#: for a definition or a live worker, and is removed some time after `unused_since`.
queues = sa.Table(
    "queues",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("paused_at", UtcDateTime),
    sa.Column("paused_by", sa.String(255)),
    sa.Column("pause_note", sa.Text),
    sa.Column("created_by", sa.String(255)),
    sa.Column("unused_since", UtcDateTime),
    build_partial_index("ix_queues_paused", "name", where="paused_at IS NOT NULL"),
)

#: Executions, which are kept. `dispatched_at`: time when the latest attempt was published; a Queued row without it
#: is yet to be published.
executions = sa.Table(
    "executions",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("job", sa.String(128), nullable=False),
    sa.Column("job_revision", sa.Integer, nullable=False),
    sa.Column("task", sa.String(255), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("max_attempts", sa.Integer),
    sa.Column("lost_attempts", Json),
    sa.Column("interrupted_attempts", Json),
    sa.Column("queue", sa.String(64), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("parameters", Json, nullable=False),
    sa.Column("result", Json),
    sa.Column("error", Json),
    sa.Column("progress", Json),
    sa.Column("worker", sa.String(255)),
    sa.Column("token", sa.String(64)),
    sa.Column("code_version", sa.String(64)),
    sa.Column("correlation_id", sa.String(128), nullable=False),
    sa.Column("batch_id", sa.String(36)),
    sa.Column("schedule_id", sa.String(36)),
    sa.Column("scheduled_for", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(255), nullable=False),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("dispatched_at", UtcDateTime),
    sa.Column("started_at", UtcDateTime),
    sa.Column("started_attempt", sa.Integer, nullable=False, default=0),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("cancel_requested_at", UtcDateTime),
    sa.Column("cancel_requested_by", sa.String(255)),
    sa.Column("event_id", sa.String(40), nullable=False, default="0-0"),
    sa.Column("overrides", Json),
    sa.Column("call", Json),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("concurrency_key", sa.String(255)),
    sa.Column("rate_key", sa.String(255)),
    sa.Column("limit_key", sa.String(520)),
    sa.Column("unique_key", sa.String(255)),
    sa.Column("urgency", sa.Integer),
    sa.Column("snoozed_attempts", Json),
    sa.Column("metadata", Json),
    sa.Column("result_file", Json),
    sa.Column("log_bytes", sa.Integer),
    sa.Column("log_dropped", Json),
    sa.Column("rerun_of", sa.String(36)),
    sa.Column("dead_letter", sa.String(16)),
    sa.Column("dead_letter_at", UtcDateTime),
    sa.Column("dead_letter_by", sa.String(255)),
    sa.Column("dead_letter_note", sa.Text),
    sa.Column("fingerprint", sa.String(32)),
    sa.Column("step", sa.String(64)),
    sa.Column("waiting_for", sa.Integer),
    sa.Column("triggered_by", sa.String(36)),
    sa.Index("ix_executions_job", "job", "id"),
    sa.Index("ix_executions_state", "state", "id"),
    sa.Index("ix_executions_correlation_id", "correlation_id", "id"),
    build_partial_index("ix_executions_batch_id", "batch_id", "id", where="batch_id IS NOT NULL"),
    build_partial_index(
        "ix_executions_ready", "queue", sa.text("priority DESC"), "due_at", "id", where=READY_UNLIMITED
    ),
    build_partial_index(
        "ix_executions_limited", "queue", "limit_key", sa.text("priority DESC"), "due_at", "id", where=READY_LIMITED
    ),
    build_partial_index("ix_executions_holding", "concurrency_key", "id", where=HOLDING_SLOT),
    build_partial_index("ix_executions_ahead", "rate_key", where=PUBLISHED_RATE_LIMITED),
    build_partial_index("ix_executions_published", "dispatched_at", where=PUBLISHED),
    build_partial_index("ix_executions_due", "due_at", where=WAITING_FOR_TIME),
    build_partial_index("ix_executions_held_back", "queue", where=HELD_BACK),
    build_partial_index("ix_executions_running", "worker", where=RUNNING),
    build_partial_index("ix_executions_cancel", "id", where=QUEUED_CANCEL_REQUESTED),
    build_partial_index("ix_executions_expiring", "expires_at", where=EXPIRING),
    build_partial_index("ix_executions_dead_letter", "id", where=OPEN_DEAD_LETTER),
    build_partial_index("ix_executions_dead_letter_job", "job", "id", where=OPEN_DEAD_LETTER),
    build_partial_index("ix_executions_dead_letter_fingerprint", "fingerprint", "id", where=OPEN_DEAD_LETTER),
    build_partial_index("ix_executions_rerun_of", "rerun_of", "id", where="rerun_of IS NOT NULL"),
    build_partial_index("ix_executions_stop", "id", where=STARTED_CANCEL_REQUESTED),
    build_partial_index("ix_executions_succeeded", "job", "id", where=SUCCEEDED),
    build_partial_index("ix_executions_batch_state", "batch_id", "state", where="batch_id IS NOT NULL"),
    build_partial_index("ix_executions_schedule_id", "schedule_id", "id", where=UNFINISHED_OF_SCHEDULE),
    build_partial_index("ix_executions_triggered_by", "triggered_by", "job", where="triggered_by IS NOT NULL"),
)

#: Attempts that a worker started.
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("execution_id", sa.String(36), sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("worker", sa.String(255)),
    sa.Column("code_version", sa.String(64)),
    sa.Column("started_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("runtime", sa.Float),
    sa.Column("error", Json),
    sqlite_with_rowid=False,
)

#: Changes of state, with time, reason and actor. A state is entered at most once per attempt.
transitions = sa.Table(
    "transitions",
    metadata,
    sa.Column("execution_id", sa.String(36), sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
    sa.Column("reason", sa.Text),
    sqlite_with_rowid=False,
)

#: Log lines of jobs. `seq` is the id of the stream entry, in a form that sorts as text.
execution_logs = sa.Table(
    "execution_logs",
    metadata,
    sa.Column("execution_id", sa.String(36), sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.String(40), primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("level", sa.String(16), nullable=False),
    sa.Column("logger", sa.String(255), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

#: Rate buckets. `full_at`: time when the bucket is full again. A bucket without a row is full.
rate_buckets = sa.Table(
    "rate_buckets",
    metadata,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("full_at", UtcDateTime, nullable=False),
)

#: Holders of unique keys: executions that hold a key until they have started or finished, or until `expires_at`.
unique_keys = sa.Table(
    "unique_keys",
    metadata,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("execution_id", sa.String(36), nullable=False),
    sa.Column("until", sa.String(16)),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("taken_at", UtcDateTime, nullable=False),
)

#: Responses to requests with an Idempotency-Key.
idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("execution_ids", Json, nullable=False),
    sa.Column("batch_id", sa.String(36)),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index("ix_idempotency_keys_created_at", "created_at"),
)

#: The relay's only row: the Redis data set that it follows, its stream offsets, the leader and the number of renewals.
#: `logged_through`: entry of the event stream up to which the log lines of all reports are recorded.
#: `problems`: recent problems of the leader, for `/readyz`: a list of `RelayProblem` as JSON.
relay_state = sa.Table(
    "relay_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.String(36)),
    sa.Column("events_offset", sa.String(40), nullable=False, default="0-0"),
    sa.Column("logs_offset", sa.String(40), nullable=False, default="0-0"),
    sa.Column("leader", sa.String(255)),
    sa.Column("turned_at", UtcDateTime),
    sa.Column("beat_tick_at", UtcDateTime),
    sa.Column("republish_at", UtcDateTime),
    sa.Column("logged_through", sa.String(40)),
    sa.Column("renewals", sa.BigInteger, nullable=False, default=0, server_default="0"),
    sa.Column("problems", Json),
)

#: Audit log of all changes except those of executions. Append-only: triggers refuse UPDATE and DELETE.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", BigId, primary_key=True, autoincrement=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("before", Json),
    sa.Column("after", Json),
)
