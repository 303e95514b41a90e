"""How our things look in JSON."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from jobworker.domain.execution import State
from jobworker.domain.retry import PlannedAttempt
from jobworker.services.accepting import Accepted
from jobworker.services.batches import BatchStatus, StepStatus
from jobworker.services.files import KeptFile
from jobworker.services.jobs import Job
from jobworker.services.revisions import Changed, Changes
from jobworker.services.selection import Done
from jobworker.services.why import Why
from jobworker.store.batches import BatchRow, StepRow
from jobworker.store.dead_letters import DeadLetterRow, Group
from jobworker.store.dependencies import ParentRow
from jobworker.store.executions import ExecutionRow
from jobworker.store.pages import Page
from jobworker.store.story import AttemptRow, LogRow, TransitionRow
from jobworker.store.tasks import TaskRow

Item = TypeVar("Item")
Row = TypeVar("Row", AttemptRow, TransitionRow, LogRow, ParentRow)

ROOT = "/api/v1"

#: A page has no more items than fit into this (bytes as JSON), or one: clients that do not read keep it in memory.
_MOST_BYTES = 1024 * 1024

_EXECUTION_FIELDS = [each.name for each in fields(ExecutionRow)]
_BATCH_FIELDS = [each.name for each in fields(BatchRow)]
_STEP_FIELDS = [each.name for each in fields(StepRow)]
_DEAD_LETTER_FIELDS = [each.name for each in fields(DeadLetterRow)]


def page(found: Page[Item], show: Callable[[Item], Any]) -> dict[str, Any]:
    """Return a page of a list as JSON; a page of large items has fewer of them, and the next page follows on them."""
    items: list[orjson.Fragment] = []
    size, following = 0, found.next
    for item in found.items:
        text = orjson.dumps(show(item), option=orjson.OPT_UTC_Z)
        size += len(text)
        if items and size > _MOST_BYTES:
            following = found.cursor_after(len(items))
            break
        items.append(orjson.Fragment(text))
    shown: dict[str, Any] = {"items": items, "next": following}
    if found.unreadable:
        shown["unreadable"] = [{"row": row, "problem": problem} for row, problem in found.unreadable.items()]
    return shown


def as_is(row: Row) -> Row:
    """Rows that are shown just as they are stored (orjson writes dataclasses)."""
    return row


def task(row: TaskRow) -> dict[str, Any]:
    """A task."""
    return {
        "name": row.name,
        "description": row.description,
        "parameters": [each.to_json() for each in row.parameters],
        "options": row.options,
        "code_version": row.code_version,
        "updated_at": row.updated_at,
    }


def job(found: Job) -> dict[str, Any]:
    """A job definition with what its task accepts."""
    row = found.row
    here = f"{ROOT}/jobs/{row.definition.name}"
    return {
        **row.definition.to_json(),
        "parameters": [each.to_json() for each in found.parameters],
        "owner": row.owner.value,
        "revision": row.revision,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "links": {
            "self": here,
            "submit": f"{here}/executions",
            "executions": f"{ROOT}/executions?job={row.definition.name}",
            "task": f"{ROOT}/tasks/{row.definition.task}",
            "revisions": f"{here}/revisions",
        },
    }


def revision(found: Changed) -> dict[str, Any]:
    """A definition as it was."""
    row = found.row
    job_url = f"{ROOT}/jobs/{row.job}"
    return {
        "job": row.job,
        "revision": row.revision,
        "created_at": row.created_at,
        "actor": row.actor,
        "changed": found.changed_fields,
        "definition": row.definition.to_json(),
        "links": {"self": f"{job_url}/revisions/{row.revision}", "job": job_url},
    }


def changes(found: Changes) -> dict[str, Any]:
    """How an execution differs from the last success before it."""
    success, told = found.last_success, None
    if success is not None:
        told = {name: getattr(success, name) for name in ("id", "job_revision", "code_version", "worker")}
        told |= {"finished_at": success.finished_at, "links": {"self": f"{ROOT}/executions/{success.id}"}}
    row = found.execution
    return {"id": row.id, "job": row.job, "last_success": told, "differences": found.differences}


def plan(planned: Sequence[PlannedAttempt]) -> dict[str, Any]:
    """What a retry policy would do."""
    attempts = [
        {"attempt": each.attempt, "wait": _span(each.wait), "due": {"earliest": each.due[0], "latest": each.due[1]}}
        for each in planned
    ]
    start, end = planned[0].due[0], planned[-1].due
    total = (end[0] - start).total_seconds(), (end[1] - start).total_seconds()
    return {"attempts": attempts, "total": _span(total)}


def _span(bounds: tuple[float, float]) -> dict[str, float]:
    return {"shortest": bounds[0], "longest": bounds[1]}


def execution(row: ExecutionRow) -> dict[str, Any]:
    """An execution."""
    here = f"{ROOT}/executions/{row.id}"
    shown: dict[str, Any] = {name: getattr(row, name) for name in _EXECUTION_FIELDS}
    shown["result_file"] = _result_file(row)
    shown["links"] = {
        "self": here,
        "attempts": f"{here}/attempts",
        "transitions": f"{here}/transitions",
        "dependencies": f"{here}/dependencies",
        "logs": f"{here}/logs",
        "result": f"{here}/result",
        "files": f"{here}/files",
        "events": f"{here}/events",
        "why": f"{here}/why",
        "changes": f"{here}/changes",
        "cancel": f"{here}/cancel",
        "rerun": f"{here}/rerun",
        "reruns": f"{ROOT}/executions?rerun_of={row.id}",
        "job": f"{ROOT}/jobs/{row.job}",
    }
    return shown


def why(found: Why) -> dict[str, Any]:
    """What an execution waits for."""
    row = found.execution
    links = {"self": f"{ROOT}/executions/{row.id}/why", "execution": f"{ROOT}/executions/{row.id}"}
    return {"id": row.id, "state": row.state, "reasons": found.blockers, "links": links}


def batch(accepted: Accepted) -> dict[str, Any]:
    """What became of a batch."""
    return {
        "batch_id": accepted.batch_id,
        "count": len(accepted.execution_ids),
        "ids": accepted.execution_ids,
        "links": {
            "batch": f"{ROOT}/batches/{accepted.batch_id}",
            "executions": f"{ROOT}/executions?batch_id={accepted.batch_id}",
        },
    }


def batch_status(found: BatchStatus) -> dict[str, Any]:
    """A batch, or a workflow, as it stands."""
    row, here = found.row, f"{ROOT}/batches/{found.row.id}"
    shown: dict[str, Any] = {name: getattr(row, name) for name in _BATCH_FIELDS}
    counts = {state.value: found.counts.get(state, 0) for state in State}
    # None of its executions may be left, or readable.
    progress = found.finished / found.total if found.total else 1.0
    steps = None if found.steps is None else [step(each) for each in found.steps]
    shown |= {"total": found.total, "finished": found.finished, "progress": progress, "counts": counts, "steps": steps}
    shown["links"] = {
        "self": here,
        "executions": f"{ROOT}/executions?batch_id={row.id}",
        "cancel": f"{here}/cancel",
    }
    return shown


def step(found: StepStatus) -> dict[str, Any]:
    """One step of a workflow."""
    return {**{name: getattr(found.row, name) for name in _STEP_FIELDS}, "needs": found.needs}


def dead_letter(row: DeadLetterRow) -> dict[str, Any]:
    """A dead letter."""
    here = f"{ROOT}/executions/{row.id}"
    shown: dict[str, Any] = {name: getattr(row, name) for name in _DEAD_LETTER_FIELDS}
    shown["links"] = {"execution": here, "rerun": f"{here}/rerun", "discard": f"{here}/discard"}
    return shown


def group(found: Group) -> dict[str, Any]:
    """Dead letters with the same failure."""
    return {
        "fingerprint": found.fingerprint,
        "count": found.count,
        "first_seen": found.first_seen,
        "last_seen": found.last_seen,
        "example": dead_letter(found.example),
        "links": {"dead_letters": f"{ROOT}/dead-letters?fingerprint={found.fingerprint}"},
    }


def done(found: Done) -> dict[str, Any]:
    """What came of an action on many executions."""
    return {
        "dry_run": found.dry_run,
        "matched": sum(found.matched.values()),
        "states": {state.value: number for state, number in found.matched.items()},
        "done": found.done,
        "refused": found.refused,
        "left": found.left,
        "next": found.next,
        "until": found.until,
        "sample": [{"id": key, "rerun": rerun} for key, rerun in found.sample],
        "problems": found.problems,
    }


def result(row: ExecutionRow) -> dict[str, Any]:
    """What came of an execution."""
    shown = {name: getattr(row, name) for name in ("id", "state", "reason", "result", "error", "finished_at")}
    return {**shown, "result_file": _result_file(row)}


def _result_file(row: ExecutionRow) -> dict[str, Any] | None:
    return {**row.result_file, "url": _file_url(row.id, row.result_file["name"])} if row.result_file else None


def file(execution_id: str, found: KeptFile) -> dict[str, Any]:
    """A file of an execution."""
    return {**asdict(found), "links": {"self": _file_url(execution_id, found.name)}}


def _file_url(execution_id: str, name: str) -> str:
    return f"{ROOT}/executions/{execution_id}/files/{quote(name, safe='')}"
