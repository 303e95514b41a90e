"""New states of executions whose dependencies were resolved: released, skipped or failed."""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.submissions import start_deadline
from jobworker.domain.workflows.dependency import DependencyResolution, ParentExecution
from jobworker.store.workflows.dependency_rows import DependencyEdge, ResolvedExecution, WaitingExecution

DependencyOutcome = tuple[DependencyEdge, DependencyResolution]


def find_obstacle(outcomes: Iterable[DependencyOutcome]) -> DependencyOutcome | None:
    """Return the dependency that prevents the release of an execution, or None; a failure precedes a skip."""
    obstacles = [outcome for outcome in outcomes if outcome[1] is not DependencyResolution.MET]
    return min(obstacles, key=lambda outcome: outcome[1] is not DependencyResolution.FAIL, default=None)


def build_stopped(
    row: WaitingExecution, outcome: DependencyOutcome, parents: Mapping[str, ParentExecution]
) -> ResolvedExecution:
    """Build the state of an execution whose dependency is not met: failed or skipped, as the dependency defines."""
    edge, verdict = outcome
    parent = parents[edge.dependency.parent]
    reason = f"it depends on {parent.id} (job {parent.job}), which ended {parent.state}"
    if verdict is DependencyResolution.FAIL:
        return build_failed(row, "DependencyFailed", reason)
    return ResolvedExecution(row.id, ExecutionState.SKIPPED, reason, row.due_at, None, row.expires_at)


def build_released(
    row: WaitingExecution, new_parameters: Mapping[str, Any] | None, expires: float | None, now: dt.datetime
) -> ResolvedExecution:
    """Build the released state; a due time in the past becomes now.

    A missing deadline is computed from the due time. `new_parameters` are the resolved ones; None: unchanged.
    """
    later = row.due_at > now
    due_at = row.due_at if later else now
    expires_at = row.expires_at or start_deadline.compute_deadline(
        due_at, (row.overrides or {}).get("expires", expires)
    )
    return ResolvedExecution(
        row.id, ExecutionState.SCHEDULED if later else ExecutionState.QUEUED, None, due_at, new_parameters, expires_at
    )


def build_failed(row: WaitingExecution, kind: str, reason: str) -> ResolvedExecution:
    """Build the failed state; `kind` is the type of the error."""
    error = {"type": kind, "message": reason, "traceback": None}
    return ResolvedExecution(row.id, ExecutionState.FAILED, reason, row.due_at, None, row.expires_at, error)


def to_parent(row: WaitingExecution, changed: ResolvedExecution) -> ParentExecution:
    """Convert an execution that ended to the parent of its own dependents."""
    return ParentExecution(row.id, row.job, changed.state, row.batch_id, row.correlation_id)
