"""Serializers of rows and views to JSON."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.retry import PlannedAttempt
from jobworker.services.bulk.actions import BulkResult
from jobworker.services.executions.blocker_report import ExecutionBlockers
from jobworker.services.executions.files import ExecutionFile
from jobworker.services.jobs.jobs import JobView
from jobworker.services.jobs.revisions import ExecutionComparison, JobRevisionView
from jobworker.services.submissions.commit import SubmissionResult
from jobworker.services.workflows.batches import BatchStatus, StepStatus
from jobworker.store.executions.dead_letters import DeadLetterGroup, DeadLetterRow
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.executions.timeline import AttemptRow, LogRow, TransitionRow
from jobworker.store.pagination import Page
from jobworker.store.tasks import TaskRow
from jobworker.store.workflows.batches import BatchRow, StepRow
from jobworker.store.workflows.dependency_rows import ParentRow

Item = TypeVar("Item")
Row = TypeVar("Row", AttemptRow, TransitionRow, LogRow, ParentRow)

ROOT = "/api/v1"

#: Maximum size (bytes as JSON) of a page with more than one item, because a page stays in memory while a client does
#: not read it.
_MAX_PAGE_BYTES = 1024 * 1024

_EXECUTION_FIELDS = [field.name for field in fields(ExecutionRow)]
_BATCH_FIELDS = [field.name for field in fields(BatchRow)]
_STEP_FIELDS = [field.name for field in fields(StepRow)]
_DEAD_LETTER_FIELDS = [field.name for field in fields(DeadLetterRow)]


def serialize_page(page: Page[Item], serialize: Callable[[Item], Any]) -> dict[str, Any]:
    """Return a page of a list as JSON. A page of large items has fewer of them, and its cursor continues after them."""
    items: list[orjson.Fragment] = []
    size, next_cursor = 0, page.next
    for item in page.items:
        text = orjson.dumps(serialize(item), option=orjson.OPT_UTC_Z)
        size += len(text)
        if items and size > _MAX_PAGE_BYTES:
            next_cursor = page.cursor_after(len(items))
            break
        items.append(orjson.Fragment(text))
    result: dict[str, Any] = {"items": items, "next": next_cursor}
    if page.unreadable:
        result["unreadable"] = [{"row": row, "problem": problem} for row, problem in page.unreadable.items()]
    return result


def serialize_row(row: Row) -> Row:
    """Return a row that is serialized as it is stored (orjson serializes dataclasses)."""
    return row


def serialize_task(row: TaskRow) -> dict[str, Any]:
    """Return a task as JSON."""
    return {
        "name": row.name,
        "description": row.description,
        "parameters": [parameter.to_json() for parameter in row.parameters],
        "options": row.options,
        "code_version": row.code_version,
        "updated_at": row.updated_at,
    }


def serialize_job(job: JobView) -> dict[str, Any]:
    """Return a job definition as JSON, with the parameters of its task."""
    row = job.row
    url = f"{ROOT}/jobs/{row.definition.name}"
    return {
        **row.definition.to_json(),
        "parameters": [parameter.to_json() for parameter in job.parameters],
        "owner": row.owner.value,
        "revision": row.revision,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "links": {
            "self": url,
            "submit": f"{url}/executions",
            "executions": f"{ROOT}/executions?job={row.definition.name}",
            "task": f"{ROOT}/tasks/{row.definition.task}",
            "revisions": f"{url}/revisions",
        },
    }


def serialize_revision(revision: JobRevisionView) -> dict[str, Any]:
    """Return a revision of a job definition as JSON."""
    row = revision.row
    job_url = f"{ROOT}/jobs/{row.job}"
    return {
        "job": row.job,
        "revision": row.revision,
        "created_at": row.created_at,
        "actor": row.actor,
        "changed": revision.changed_fields,
        "definition": row.definition.to_json(),
        "links": {"self": f"{job_url}/revisions/{row.revision}", "job": job_url},
    }


def serialize_changes(changes: ExecutionComparison) -> dict[str, Any]:
    """Return the differences between an execution and the last success before it as JSON."""
    success, last_success = changes.last_success, None
    if success is not None:
        last_success = {name: getattr(success, name) for name in ("id", "job_revision", "code_version", "worker")}
        last_success |= {"finished_at": success.finished_at, "links": {"self": f"{ROOT}/executions/{success.id}"}}
    row = changes.execution
    return {"id": row.id, "job": row.job, "last_success": last_success, "differences": changes.differences}


def serialize_retry_plan(planned_attempts: Sequence[PlannedAttempt]) -> dict[str, Any]:
    """Return the preview of a retry policy as JSON."""
    attempts = [
        {
            "attempt": attempt.attempt,
            "wait": _serialize_span(attempt.wait),
            "due": {"earliest": attempt.due[0], "latest": attempt.due[1]},
        }
        for attempt in planned_attempts
    ]
    start, end = planned_attempts[0].due[0], planned_attempts[-1].due
    total = (end[0] - start).total_seconds(), (end[1] - start).total_seconds()
    return {"attempts": attempts, "total": _serialize_span(total)}


def _serialize_span(bounds: tuple[float, float]) -> dict[str, float]:
    return {"shortest": bounds[0], "longest": bounds[1]}


def serialize_execution(row: ExecutionRow) -> dict[str, Any]:
    """Return an execution as JSON."""
    url = f"{ROOT}/executions/{row.id}"
    result: dict[str, Any] = {name: getattr(row, name) for name in _EXECUTION_FIELDS}
    result["result_file"] = _serialize_result_file(row)
    result["links"] = {
        "self": url,
        "attempts": f"{url}/attempts",
        "transitions": f"{url}/transitions",
        "dependencies": f"{url}/dependencies",
        "logs": f"{url}/logs",
        "result": f"{url}/result",
        "files": f"{url}/files",
        "events": f"{url}/events",
        "why": f"{url}/why",
        "changes": f"{url}/changes",
        "cancel": f"{url}/cancel",
        "rerun": f"{url}/rerun",
        "reruns": f"{ROOT}/executions?rerun_of={row.id}",
        "job": f"{ROOT}/jobs/{row.job}",
    }
    return result


def serialize_why(explanation: ExecutionBlockers) -> dict[str, Any]:
    """Return the blockers of an execution as JSON."""
    row = explanation.execution
    links = {"self": f"{ROOT}/executions/{row.id}/why", "execution": f"{ROOT}/executions/{row.id}"}
    return {"id": row.id, "state": row.state, "reasons": explanation.blockers, "links": links}


def serialize_batch(accepted: SubmissionResult) -> dict[str, Any]:
    """Return an accepted batch as JSON."""
    return {
        "batch_id": accepted.batch_id,
        "count": len(accepted.execution_ids),
        "ids": accepted.execution_ids,
        "links": {
            "batch": f"{ROOT}/batches/{accepted.batch_id}",
            "executions": f"{ROOT}/executions?batch_id={accepted.batch_id}",
        },
    }


def serialize_batch_status(status: BatchStatus) -> dict[str, Any]:
    """Return the status of a batch or workflow as JSON."""
    row, url = status.row, f"{ROOT}/batches/{status.row.id}"
    result: dict[str, Any] = {name: getattr(row, name) for name in _BATCH_FIELDS}
    counts = {state.value: status.counts.get(state, 0) for state in ExecutionState}
    # A batch may have no executions left, or none that are readable.
    progress = status.finished / status.total if status.total else 1.0
    steps = None if status.steps is None else [serialize_step(step) for step in status.steps]
    result |= {
        "total": status.total,
        "finished": status.finished,
        "progress": progress,
        "counts": counts,
        "steps": steps,
    }
    result["links"] = {
        "self": url,
        "executions": f"{ROOT}/executions?batch_id={row.id}",
        "cancel": f"{url}/cancel",
    }
    return result


def serialize_step(step: StepStatus) -> dict[str, Any]:
    """Return a step of a workflow as JSON."""
    return {**{name: getattr(step.row, name) for name in _STEP_FIELDS}, "needs": step.needs}


def serialize_dead_letter(row: DeadLetterRow) -> dict[str, Any]:
    """Return a dead letter as JSON."""
    url = f"{ROOT}/executions/{row.id}"
    result: dict[str, Any] = {name: getattr(row, name) for name in _DEAD_LETTER_FIELDS}
    result["links"] = {"execution": url, "rerun": f"{url}/rerun", "discard": f"{url}/discard"}
    return result


def serialize_group(group: DeadLetterGroup) -> dict[str, Any]:
    """Return a group of dead letters with one fingerprint as JSON."""
    return {
        "fingerprint": group.fingerprint,
        "count": group.count,
        "first_seen": group.first_seen,
        "last_seen": group.last_seen,
        "example": serialize_dead_letter(group.example),
        "links": {"dead_letters": f"{ROOT}/dead-letters?fingerprint={group.fingerprint}"},
    }


def serialize_bulk_result(result: BulkResult) -> dict[str, Any]:
    """Return the result of a bulk action as JSON."""
    return {
        "dry_run": result.dry_run,
        "matched": sum(result.matched.values()),
        "states": {state.value: number for state, number in result.matched.items()},
        "done": result.done,
        "refused": result.refused,
        "left": result.left,
        "next": result.next,
        "until": result.until,
        "sample": [{"id": key, "rerun": rerun} for key, rerun in result.sample],
        "problems": result.problems,
    }


def serialize_result(row: ExecutionRow) -> dict[str, Any]:
    """Return the result or failure of an execution as JSON."""
    fields = {name: getattr(row, name) for name in ("id", "state", "reason", "result", "error", "finished_at")}
    return {**fields, "result_file": _serialize_result_file(row)}


def _serialize_result_file(row: ExecutionRow) -> dict[str, Any] | None:
    return {**row.result_file, "url": _make_file_url(row.id, row.result_file["name"])} if row.result_file else None


def serialize_file(execution_id: str, file: ExecutionFile) -> dict[str, Any]:
    """Return a file of an execution as JSON."""
    return {**asdict(file), "links": {"self": _make_file_url(execution_id, file.name)}}


def _make_file_url(execution_id: str, name: str) -> str:
    return f"{ROOT}/executions/{execution_id}/files/{quote(name, safe='')}"
