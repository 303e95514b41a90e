"""The tables. `migrations/` must add up to exactly this; a test compares the two."""

import datetime as dt
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

#: SQLite numbers rows only through INTEGER PRIMARY KEY.
_BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class Json(sa.types.TypeDecorator[Any]):
    """A JSON value; None is NULL. PostgreSQL keeps jsonb, SQLite text.

    Not SQLAlchemy's own type: SQLite gives a column declared JSON numeric affinity and turns the text
    `0` into a number.
    """

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """The column type in this database."""
        own = postgresql.JSONB(none_as_null=True) if dialect.name == "postgresql" else sa.Text()
        return dialect.type_descriptor(own)

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        """jsonb is serialized by the engine, text here."""
        if value is None or dialect.name == "postgresql":
            return value
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        """The inverse."""
        if value is None or dialect.name == "postgresql":
            return value
        return orjson.loads(value)


class Moment(sa.types.TypeDecorator[dt.datetime]):
    """An aware UTC time. SQLite stores it as readable UTC text, PostgreSQL as timestamptz."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        """Refuses naive times: nobody could say which moment they mean."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive time {value!r}")
        value = value.astimezone(dt.UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        """Always aware, always UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _partial(name: str, *columns: Any, where: str) -> sa.Index:
    condition = sa.text(where)
    return sa.Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


#: Conditions of partial indexes; a query must use the very same words for SQLite to find the index. The
#: empty string keeps its planner from taking ix_executions_state instead, which would read the whole backlog.
READY = "state || '' = 'Queued' AND dispatched_at IS NULL"
PUBLISHED = "state || '' = 'Queued' AND dispatched_at IS NOT NULL"
WAITING_FOR_TIME = "state || '' IN ('Scheduled', 'Retrying')"
RUNNING = "state || '' = 'Running'"
SUCCEEDED = "state || '' = 'Succeeded'"
CANCEL_ASKED = "state || '' = 'Queued' AND cancel_requested_at IS NOT NULL"
EXPIRING = "expires_at IS NOT NULL AND attempt = 0 AND dispatched_at IS NULL AND finished_at IS NULL"
DEAD_LETTER = "dead_letter || '' = 'open'"
STOP_ASKED = "state || '' IN ('Running', 'Retrying') AND cancel_requested_at IS NOT NULL"

#: The current revision of each job. `definition` is `domain.job.Definition` as JSON.
job_definitions = sa.Table(
    "job_definitions",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("task", sa.String(255), nullable=False),
    sa.Column("owner", sa.String(16), nullable=False),
    sa.Column("definition", Json, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
)

#: Every revision that ever was; it outlives its job, so numbers are never used twice.
job_revisions = sa.Table(
    "job_revisions",
    metadata,
    sa.Column("job", sa.String(128), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("definition", Json, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
)

#: What workers can run. `parameters` is a list of `domain.parameters.Parameter` as JSON; `options` are Celery's.
tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("parameters", Json, nullable=False),
    sa.Column("options", Json, nullable=False),
    sa.Column("code_version", sa.String(64), nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
)

#: Workers heard of. A row with `gone_at` has stopped or was declared dead.
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
    sa.Column("started_at", Moment, nullable=False),
    sa.Column("seen_at", Moment, nullable=False),
    sa.Column("gone_at", Moment),
    _partial("ix_workers_live", "id", where="gone_at IS NULL"),
)

#: Names of queues that were ever submitted to; the relay feeds each.
queues = sa.Table(
    "queues",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("paused_at", Moment),
    sa.Column("paused_by", sa.String(255)),
    sa.Column("pause_note", sa.Text),
)

#: Executions: one row each, kept. `dispatched_at` is when the latest attempt was
#: published; a Queued row without it is still to be.
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
    sa.Column("scheduled_for", Moment),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("created_by", sa.String(255), nullable=False),
    sa.Column("due_at", Moment, nullable=False),
    sa.Column("dispatched_at", Moment),
    sa.Column("started_at", Moment),
    sa.Column("started_attempt", sa.Integer, nullable=False, default=0),
    sa.Column("finished_at", Moment),
    sa.Column("cancel_requested_at", Moment),
    sa.Column("cancel_requested_by", sa.String(255)),
    sa.Column("event_id", sa.String(40), nullable=False, default="0-0"),
    sa.Column("overrides", Json),
    sa.Column("expires_at", Moment),
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
    sa.Column("dead_letter_at", Moment),
    sa.Column("dead_letter_by", sa.String(255)),
    sa.Column("dead_letter_note", sa.Text),
    sa.Column("fingerprint", sa.String(32)),
    sa.Column("step", sa.String(64)),
    sa.Column("waiting_for", sa.Integer),
    sa.Index("ix_executions_job", "job", "id"),
    sa.Index("ix_executions_state", "state", "id"),
    sa.Index("ix_executions_correlation_id", "correlation_id", "id"),
    _partial("ix_executions_batch_id", "batch_id", "id", where="batch_id IS NOT NULL"),
    _partial("ix_executions_ready", "queue", sa.text("priority DESC"), "due_at", "id", where=READY),
    _partial("ix_executions_published", "dispatched_at", where=PUBLISHED),
    _partial("ix_executions_due", "due_at", where=WAITING_FOR_TIME),
    _partial("ix_executions_running", "worker", where=RUNNING),
    _partial("ix_executions_succeeded", "job", "id", where=SUCCEEDED),
    _partial("ix_executions_cancel", "id", where=CANCEL_ASKED),
    _partial("ix_executions_expiring", "expires_at", where=EXPIRING),
    _partial("ix_executions_dead_letter", "id", where=DEAD_LETTER),
    _partial("ix_executions_dead_letter_job", "job", "id", where=DEAD_LETTER),
    _partial("ix_executions_dead_letter_fingerprint", "fingerprint", "id", where=DEAD_LETTER),
    _partial("ix_executions_rerun_of", "rerun_of", "id", where="rerun_of IS NOT NULL"),
    _partial("ix_executions_stop", "id", where=STOP_ASKED),
)

#: One row for each attempt that a worker started.
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("execution_id", sa.String(36), sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("worker", sa.String(255)),
    sa.Column("code_version", sa.String(64)),
    sa.Column("started_at", Moment),
    sa.Column("finished_at", Moment),
    sa.Column("runtime", sa.Float),
    sa.Column("error", Json),
    sqlite_with_rowid=False,
)

#: Every change of state, with time, reason and actor. A state is entered at most once per attempt.
transitions = sa.Table(
    "transitions",
    metadata,
    sa.Column("execution_id", sa.String(36), sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
    sa.Column("reason", sa.Text),
    sqlite_with_rowid=False,
)

#: What jobs wrote. `seq` is the id of the stream entry, in a form that sorts as text.
execution_logs = sa.Table(
    "execution_logs",
    metadata,
    sa.Column("execution_id", sa.String(36), sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.String(40), primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("at", Moment, nullable=False),
    sa.Column("level", sa.String(16), nullable=False),
    sa.Column("logger", sa.String(255), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

#: What is to happen by itself. `rule` is a rule of `domain.schedule` as JSON.
job_schedules = sa.Table(
    "job_schedules",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("job", sa.String(128), nullable=False, unique=True),
    sa.Column("rule", Json, nullable=False),
    sa.Column("enabled", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("changed_at", Moment, nullable=False),
)

#: The ledger of what was due. The key is what makes an occurrence happen once.
occurrences = sa.Table(
    "occurrences",
    metadata,
    sa.Column("schedule_id", sa.String(36), primary_key=True),
    sa.Column("scheduled_for", Moment, primary_key=True),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("execution_id", sa.String(36)),
    sa.Column("recorded_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

#: Answers given under an Idempotency-Key.
idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("execution_ids", Json, nullable=False),
    sa.Column("batch_id", sa.String(36)),
    sa.Column("created_at", Moment, nullable=False),
    sa.Index("ix_idempotency_keys_created_at", "created_at"),
)

#: The relay's one row: which Redis data set it follows, how far it has read, who leads. `logged_through`: the log
#: lines of whatever was reported up to this entry of the event stream are recorded.
relay_state = sa.Table(
    "relay_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.String(36)),
    sa.Column("events_offset", sa.String(40), nullable=False, default="0-0"),
    sa.Column("logs_offset", sa.String(40), nullable=False, default="0-0"),
    sa.Column("leader", sa.String(255)),
    sa.Column("leader_until", Moment),
    sa.Column("turned_at", Moment),
    sa.Column("beat_tick_at", Moment),
    sa.Column("republish_at", Moment),
    sa.Column("logged_through", sa.String(40)),
)

#: Who changed what besides executions. Append-only: triggers refuse UPDATE and DELETE.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", _BigId, primary_key=True, autoincrement=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("before", Json),
    sa.Column("after", Json),
)
