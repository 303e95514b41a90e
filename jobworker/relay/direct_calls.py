"""Recording of direct calls as executions: the first event of a call inserts its row."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
import structlog

from jobworker.domain.executions import direct_call
from jobworker.domain.executions.direct_call import DirectCall
from jobworker.domain.executions.events import Event, EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import limits
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.domain.jobs.parameters import Parameter
from jobworker.services.submissions import preparation
from jobworker.store import jobs, tasks
from jobworker.store.executions import direct_calls, history
from jobworker.store.executions.direct_calls import DirectCallRow
from jobworker.store.executions.executions import NewExecution

logger = structlog.get_logger(__name__)


def insert_direct_calls(connection: sa.Connection, reports: Sequence[Event]) -> None:
    """Insert a row for each direct call that has none yet."""
    calls = {
        event.execution: call for event in reports if event.kind is EventKind.CALLED and (call := _parse_call(event))
    }
    if not calls:
        return
    present = history.get_many(connection, calls)
    kinds = {call.task: _get_call_target(connection, call.task) for call in calls.values()}
    rows = [
        _to_row(execution, call, *kinds[call.task]) for execution, call in calls.items() if execution not in present
    ]
    direct_calls.insert(connection, rows)


def reject_calls_of_removed_tasks(connection: sa.Connection, reports: Sequence[Event]) -> dict[str, Event]:
    """Return a `rejected` event, by execution, for calls that a worker declined because their task was removed."""
    called = {event.execution: event.data.get("task") for event in reports if event.kind is EventKind.CALLED}
    declined = [event for event in reports if event.kind is EventKind.UNKNOWN_TASK and event.execution in called]
    if not declined:
        return {}
    task_rows = tasks.get_many(connection, [str(called[event.execution]) for event in declined])
    ends = {}
    for event in declined:
        task = task_rows.get(str(called[event.execution]))
        if task is not None and task.removed_at is not None:
            why = preparation.describe_removed(task.name, task)
            error = {"type": "JobRemoved", "message": why, "traceback": None}
            data = {"worker": event.data.get("worker"), "reason": why, "error": error}
            ends[event.execution] = Event(event.id, EventKind.REJECTED, event.execution, event.attempt, data)
    return ends


def _parse_call(event: Event) -> DirectCall | None:
    try:
        return direct_call.parse(event.execution, event.data, event.at)
    except (KeyError, TypeError, ValueError) as error:  # Content of Redis must not stop the relay.
        logger.error("event_unreadable", event_id=event.id, error=repr(error), execution=event.execution)
        return None


CallTarget = tuple[JobDefinition | None, int, tuple[Parameter, ...]]


def _get_call_target(connection: sa.Connection, name: str) -> CallTarget:
    """Return the definition of the job named like the task, its revision, and the parameters that the task accepts."""
    row, task = jobs.get(connection, name), tasks.get(connection, name)
    own = row if row and row.definition.task == name else None
    return own.definition if own else None, own.revision if own else 0, task.parameters if task else ()


def _to_row(
    execution: str, call: DirectCall, definition: JobDefinition | None, revision: int, accepted: Sequence[Parameter]
) -> DirectCallRow:
    parameters, by_name = direct_call.bind_parameters(call, accepted)
    keys = limits.compute_keys(call.task, definition.policies if definition else {}, parameters, accepted)
    new = NewExecution(
        id=execution,
        job=call.task,
        job_revision=revision,
        task=call.task,
        max_attempts=definition.max_attempts if definition else None,
        queue=call.queue,
        priority=call.priority,
        parameters=parameters,
        correlation_id=call.correlation_id or execution,
        batch_id=None,
        schedule_id=None,
        scheduled_for=None,
        due_at=call.called_at,
        state=ExecutionState.QUEUED,
        # The call runs already and counts toward the limits; uniqueness does not apply to direct calls.
        **keys._replace(unique_key=None)._asdict(),
    )
    return DirectCallRow(new, call.caller, call.called_at, _get_embedded_options(call, by_name))


def _get_embedded_options(call: DirectCall, all_named: bool) -> Mapping[str, Any] | None:
    """Return the part of the call that messages of later attempts carry besides the parameters."""
    return call.embedded if call.embedded or not all_named else None
