"""Tables of dependencies, batches and triggers."""

import sqlalchemy as sa

from jobworker.store.database.columns import Json, UtcDateTime, build_partial_index, metadata

#: Condition of batches whose cancellation was requested and that have not ended.
BATCH_CANCELLING = "cancel_requested_at IS NOT NULL AND completed_at IS NULL"

#: Dependencies of executions, one row for each parent. `condition`: required outcome of the parent; `otherwise`: action
#: for the dependent if the parent ends with another outcome; `outcome`: how the dependency was resolved. Rows are
#: resolved (`settled_at`) in the transaction that ends the parent.
dependencies = sa.Table(
    "dependencies",
    metadata,
    sa.Column("execution_id", sa.String(36), sa.ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("parent_id", sa.String(36), primary_key=True),
    sa.Column("condition", sa.String(16), nullable=False),
    sa.Column("otherwise", sa.String(16), nullable=False),
    sa.Column("outcome", sa.String(16)),
    sa.Column("settled_at", UtcDateTime),
    build_partial_index("ix_dependencies_unsettled", "parent_id", "execution_id", where="settled_at IS NULL"),
    sqlite_with_rowid=False,
)

#: Batches and workflows: executions that were submitted together. `on_complete`: job that runs when the last execution
#: has ended; `completion_id`: that execution; `problem`: reason why there is no such execution.
batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("name", sa.String(128)),
    sa.Column("correlation_id", sa.String(128), nullable=False),
    sa.Column("on_complete", Json),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(255), nullable=False),
    sa.Column("cancel_requested_at", UtcDateTime),
    sa.Column("cancel_requested_by", sa.String(255)),
    sa.Column("completed_at", UtcDateTime),
    sa.Column("completion_id", sa.String(36)),
    sa.Column("problem", sa.Text),
    build_partial_index("ix_batches_open", "id", where="completed_at IS NULL"),
    build_partial_index("ix_batches_cancelling", "id", where=BATCH_CANCELLING),
)

#: Triggers of jobs: `trigger_after` of the definitions. `condition`: outcome of the earlier job that fires the trigger.
job_triggers = sa.Table(
    "job_triggers",
    metadata,
    sa.Column("after", sa.String(128), primary_key=True),
    sa.Column("job", sa.String(128), primary_key=True),
    sa.Column("condition", sa.String(16), primary_key=True),
    sa.Column("parameters", Json, nullable=False),
    sa.Index("ix_job_triggers_job", "job"),
    sqlite_with_rowid=False,
)
