"""The tables of what belongs together: what waits for what, what was accepted together, what starts after what."""

import sqlalchemy as sa

from jobworker.store.engine.columns import Json, UtcDateTime, build_partial_index, metadata

#: Batches that somebody cancelled and that have not ended.
BATCH_CANCELLING = "cancel_requested_at IS NOT NULL AND completed_at IS NULL"

#: What executions wait for: one row for each parent. `condition` is the end of the parent that lets the dependent go,
#: `otherwise` what becomes of it if the parent ends in another way, `outcome` what it was. Rows are settled in the
#: transaction that ends the parent.
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

#: Executions that were accepted together: a batch, or a workflow. `on_complete` is what runs when the last of them has
#: ended; `completion_id` is that execution, `problem` why there is none.
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

#: Which jobs start after which: what `trigger_after` of the definitions says. `condition` is the end that counts.
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
