"""Accepting work: one commit, and it will run.

What is asked for is looked up and checked before the write transaction begins, so that a flood of
refused requests, or the checking of 10,000 items, never keeps the relay from writing. Whatever changes
in between (a definition, say) counts as having changed afterwards: an execution names its revision.
"""

import datetime as dt
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain import admission, deadline, limits, parameters
from jobworker.domain.admission import Submission
from jobworker.domain.errors import (
    FieldError,
    IdempotencyKeyReused,
    InvalidInput,
    InvalidParameters,
    JobDisabled,
    JobWorkerError,
    TaskNotFound,
    pointer,
)
from jobworker.domain.ids import IdFactory
from jobworker.services import jobs as job_services
from jobworker.services import unique
from jobworker.store import executions, idempotency, jobs, tasks
from jobworker.store.database import Database
from jobworker.store.executions import ExecutionRow, NewExecution
from jobworker.store.idempotency import Remembered
from jobworker.store.jobs import JobRow
from jobworker.store.tasks import TaskRow

#: So many executions may come in one request: they are one transaction, which others wait for.
MAX_BATCH = 10_000

#: So many problems of one batch are told; whoever has more of them has the same one many times.
_TOLD = 100

_MAX_KEY = 255

_ids = IdFactory()


@dataclass(frozen=True, slots=True)
class Once:
    """An Idempotency-Key, and for how long (s) it is remembered."""

    key: str
    ttl: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a submission: the same again if its key was used before."""

    execution_ids: Sequence[str]
    batch_id: str | None
    replayed: bool


@dataclass(frozen=True, slots=True)
class Known:
    """The definitions and tasks that a submission names."""

    jobs: dict[str, JobRow]
    tasks: dict[str, TaskRow]

    def unique(self) -> dict[str, Any]:
        """What each job says about unique executions."""
        return {name: row.definition.policies["unique"] for name, row in self.jobs.items()}


def submit(
    database: Database, clock: Clock, submission: Submission, actor: str, once: Once | None = None
) -> tuple[ExecutionRow, bool]:
    """Accept one execution; the row as accepted, and whether it is another one, which stands for it, as it is now."""
    now = clock.now()
    fingerprint = _fingerprint([submission], batch=False)
    with database.read() as connection:
        replay = _replay(connection, once, fingerprint, now)
        if replay is None:
            known = _look_up_one(connection, submission.job)
    if replay is None:
        prepared = prepare(submission, known, now)
        replay = _accept(database, [prepared], known, actor, now, once, fingerprint)
        if not replay.replayed and replay.execution_ids[0] == prepared.id:
            return executions.accepted(prepared, actor, now), False
    with database.read() as connection:
        row = executions.get(connection, replay.execution_ids[0])
    assert row is not None, "an execution that a key names is kept as long as the key"
    return row, True


def submit_batch(
    database: Database, clock: Clock, submissions: Sequence[Submission], actor: str, once: Once | None = None
) -> Accepted:
    """Accept all of these executions, or none: one item that is wrong refuses the batch."""
    if not 0 < len(submissions) <= MAX_BATCH:
        message = f"a batch has 1 to {MAX_BATCH} executions, not {len(submissions)}"
        raise InvalidInput(message, [FieldError("/executions", "not_allowed", message)])
    now = clock.now()
    fingerprint = _fingerprint(submissions, batch=True)
    with database.read() as connection:
        replay = _replay(connection, once, fingerprint, now)
        if replay is not None:
            return replay
        known = look_up(connection, [each.job for each in submissions])
    batch_id = _new_id(now)
    prepared = _prepare_all(submissions, known, now, batch_id)
    return _accept(database, prepared, known, actor, now, once, fingerprint)


def _accept(
    database: Database,
    prepared: Sequence[NewExecution],
    known: Known,
    actor: str,
    now: dt.datetime,
    once: Once | None,
    fingerprint: str,
) -> Accepted:
    """The commit. The key goes first: it decides between two requests that bring the same one at once."""
    ids, batch_id = [each.id for each in prepared], prepared[0].batch_id

    def accept(connection: sa.Connection) -> Accepted:
        if once is not None:
            answer = Remembered(once.key, fingerprint, ids, batch_id, now)
            earlier = idempotency.reserve(connection, answer, now - dt.timedelta(seconds=once.ttl))
            if earlier is not None:
                return _repeat(earlier, fingerprint)
        decided = unique.decide(connection, prepared, known.unique(), now)
        if once is not None and decided.ids != ids:
            idempotency.amend(connection, once.key, decided.ids)
        executions.insert(connection, decided.accepted, actor, now)
        return Accepted(decided.ids, batch_id, replayed=False)

    return database.commit(accept)


def _replay(connection: sa.Connection, once: Once | None, fingerprint: str, now: dt.datetime) -> Accepted | None:
    """The answer that was given under this key, if it was used before."""
    if once is None:
        return None
    if not (0 < len(once.key) <= _MAX_KEY and once.key.isprintable()):
        message = f"Idempotency-Key must have 1 to {_MAX_KEY} printable characters"
        raise InvalidInput(message, [FieldError("Idempotency-Key", "not_allowed", message)])
    earlier = idempotency.find(connection, once.key)
    if earlier is None or earlier.created_at < now - dt.timedelta(seconds=once.ttl):
        return None
    return _repeat(earlier, fingerprint)


def _repeat(earlier: Remembered, fingerprint: str) -> Accepted:
    if earlier.fingerprint != fingerprint:
        raise IdempotencyKeyReused(
            f"Idempotency-Key {earlier.key} was used at {earlier.created_at.isoformat()} for another request; "
            "use a new key for new work"
        )
    return Accepted(earlier.execution_ids, earlier.batch_id, replayed=True)


def _fingerprint(submissions: Sequence[Submission], batch: bool) -> str:
    content = orjson.dumps([batch, submissions], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()


def _look_up_one(connection: sa.Connection, name: str) -> Known:
    row = job_services.find(connection, name)
    task = tasks.get(connection, row.definition.task)
    return Known({name: row}, {task.name: task} if task else {})


def look_up(connection: sa.Connection, names: Iterable[str]) -> Known:
    """The jobs of these names, as far as they exist, and their tasks."""
    named = jobs.some(connection, sorted({name for name in names if name.isprintable()}))
    needed = sorted({row.definition.task for row in named.values()})
    return Known(named, tasks.some(connection, needed))


def _prepare_all(
    submissions: Sequence[Submission], known: Known, now: dt.datetime, batch_id: str
) -> list[NewExecution]:
    prepared: list[NewExecution] = []
    problems: list[FieldError] = []
    for index, submission in enumerate(submissions):
        where = pointer("executions", index)
        try:
            prepared.append(prepare(submission, known, now, where, batch_id))
        except InvalidInput as error:
            problems.extend(error.errors)
        except JobWorkerError as error:
            problems.append(FieldError(f"{where}/job", error.code, error.detail))
        if len(problems) >= _TOLD:
            break
    if problems:
        raise InvalidInput("nothing was accepted, because some executions of the batch are wrong", problems[:_TOLD])
    return prepared


def prepare(
    submission: Submission, known: Known, now: dt.datetime, where: str = "", batch_id: str | None = None
) -> NewExecution:
    """The execution that this submission asks for; raises what is wrong with it."""
    row = known.jobs.get(submission.job)
    if row is None:
        message = f"there is no job {submission.job!r}; GET /api/v1/jobs lists all"
        raise InvalidInput(message, [FieldError(f"{where}/job", "job_not_found", message)])
    definition = row.definition
    if not definition.enabled:
        raise JobDisabled(f"job {definition.name} is disabled; enable it with PUT /api/v1/jobs/{definition.name}")
    admission.refuse(admission.check_submission(submission, now, where))
    due_at, state = admission.due(submission, now)
    overrides = submission.overrides() or {}
    expires = admission.expires(submission, due_at)
    if expires is not None:
        overrides["expires"] = expires
    given = _parameters(submission, row, known, where)
    keys = limits.keys(definition.name, definition.policies, given, known.tasks[definition.task].parameters)
    new_id = _new_id(now)
    return NewExecution(
        id=new_id,
        job=definition.name,
        job_revision=row.revision,
        task=definition.task,
        max_attempts=overrides.get("retry", {}).get("max_attempts") or definition.max_attempts,
        queue=submission.queue or definition.queue,
        priority=definition.priority if submission.priority is None else submission.priority,
        parameters=given,
        correlation_id=submission.correlation_id or new_id,
        batch_id=batch_id,
        schedule_id=None,
        scheduled_for=None,
        due_at=due_at,
        state=state,
        overrides=overrides or None,
        expires_at=deadline.of(due_at, overrides.get("expires", definition.expires)),
        **keys._asdict(),
    )


def _parameters(submission: Submission, row: JobRow, known: Known, where: str) -> dict[str, object]:
    """The definition's defaults overlaid by what was submitted, as the task accepts it."""
    task = known.tasks.get(row.definition.task)
    if task is None:
        raise TaskNotFound(f"job {row.definition.name} runs task {row.definition.task}, which no worker announced yet")
    where = f"{where}/parameters"
    given = parameters.validate(task.parameters, {**row.definition.defaults, **submission.parameters}, where)
    size = len(orjson.dumps(given))
    if size > parameters.MAX_BYTES:
        message = f"the parameters have {size} bytes as JSON; at most {parameters.MAX_BYTES} are allowed"
        raise InvalidParameters(message, [FieldError(where, "too_large", message)])
    return given


def _new_id(now: dt.datetime) -> str:
    return _ids.new(int(now.timestamp() * 1000))
