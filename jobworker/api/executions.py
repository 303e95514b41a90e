"""/api/v1/executions: what became of submitted work."""

from typing import Any

from flask import Response

from jobworker.api import show
from jobworker.api.answers import answer
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import ACTOR, room
from jobworker.api.schemas.base import PageQuery, page_of
from jobworker.api.schemas.executions import Attempt, Dependency, Execution, ExecutionQuery, LogLine, Result, Transition
from jobworker.api.schemas.queues import Why
from jobworker.api.schemas.revisions import Changes
from jobworker.api.schemas.selections import CancelBody, Done
from jobworker.domain.errors import ExecutionNotFound, InvalidCursor, NotCancellable, NotFinished, ScheduleNotFound
from jobworker.domain.execution import State
from jobworker.services import cancelling, executions, revisions, why
from jobworker.store.filters import Filters

blueprint = Blueprint(
    "executions",
    __name__,
    url_prefix=f"{show.ROOT}/executions",
    description="Executions, their attempts, transitions, logs and results. They are kept.",
)


@blueprint.get("")
@blueprint.accept_query(ExecutionQuery())
@blueprint.document_response(200, page_of(Execution), "Executions, newest first.")
@blueprint.document_problems(ScheduleNotFound)
def list_executions(query: dict[str, Any]) -> Response:
    """List executions; filters are combined with "and"."""
    limit, cursor, schedule = query.pop("limit"), query.pop("cursor"), query.pop("schedule")
    found = executions.page(room().database, Filters(**query), limit, cursor, schedule)
    return answer(show.page(found, show.execution))


@blueprint.get("/<execution:execution_id>")
@blueprint.document_response(200, Execution(), "The execution as it stands.")
@blueprint.document_problems(ExecutionNotFound)
def get_execution(execution_id: str) -> Response:
    """Read an execution."""
    return answer(show.execution(executions.get(room().database, execution_id)))


@blueprint.get("/<execution:execution_id>/attempts")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(Attempt), "Attempts, first to last.")
@blueprint.document_problems(ExecutionNotFound)
def list_attempts(query: dict[str, Any], execution_id: str) -> Response:
    """List the attempts that workers started."""
    found = executions.attempts(room().database, execution_id, query["limit"], query["cursor"])
    return answer(show.page(found, show.as_is))


@blueprint.get("/<execution:execution_id>/transitions")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(Transition), "Changes of state, first to last.")
@blueprint.document_problems(ExecutionNotFound)
def list_transitions(query: dict[str, Any], execution_id: str) -> Response:
    """List every change of state, with time, reason and actor."""
    found = executions.transitions(room().database, execution_id, query["limit"], query["cursor"])
    return answer(show.page(found, show.as_is))


@blueprint.get("/<execution:execution_id>/dependencies")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(Dependency), "What it waits or waited for.")
@blueprint.document_problems(ExecutionNotFound)
def list_dependencies(query: dict[str, Any], execution_id: str) -> Response:
    """List the executions that have to end before this one, how they stand, and what each came to."""
    found = executions.parents(room().database, execution_id, query["limit"], query["cursor"])
    return answer(show.page(found, show.as_is))


@blueprint.get("/<execution:execution_id>/logs")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(LogLine), "Lines, first to last.")
@blueprint.document_problems(ExecutionNotFound)
def list_logs(query: dict[str, Any], execution_id: str) -> Response:
    """List what the job wrote to its log."""
    found = executions.logs(room().database, execution_id, query["limit"], query["cursor"])
    return answer(show.page(found, show.as_is))


@blueprint.get("/<execution:execution_id>/changes")
@blueprint.document_response(200, Changes(), "What is different.")
@blueprint.document_problems(ExecutionNotFound)
def get_changes(execution_id: str) -> Response:
    """Compare an execution with the last one of the same job before it that succeeded."""
    return answer(show.changes(revisions.changes(room().database, execution_id)))


@blueprint.get("/<execution:execution_id>/result")
@blueprint.document_response(200, Result(), "What came of it.")
@blueprint.document_problems(ExecutionNotFound, NotFinished)
def get_result(execution_id: str) -> Response:
    """Read the result, or the error, of an execution that has ended."""
    return answer(show.result(executions.result(room().database, execution_id)))


@blueprint.get("/<execution:execution_id>/why")
@blueprint.document_response(200, Why(), "Every reason.")
@blueprint.document_problems(ExecutionNotFound)
def explain(execution_id: str) -> Response:
    """Say why an execution has not run, or has not finished: all that it waits for."""
    return answer(show.why(why.why(room().database, room().clock, execution_id)))


@blueprint.post("/<execution:execution_id>/cancel")
@blueprint.document_response(200, Execution(), "It is cancelled.")
@blueprint.document_response(202, Execution(), "It will not start, or its worker stops it; then it is Cancelled.")
@blueprint.document_problems(ExecutionNotFound, NotCancellable)
def cancel(execution_id: str) -> Response:
    """Cancel an execution that has not ended. Asking again changes nothing."""
    row = executions.cancel(room().database, room().clock, execution_id, ACTOR)
    room().notify_cancellation()
    return answer(show.execution(row), 200 if row.state is State.CANCELLED else 202)


@blueprint.post("/cancel")
@blueprint.arguments(CancelBody())
@blueprint.document_response(200, Done(), "What was done, or would be; `next` says whether something remains.")
@blueprint.document_problems(InvalidCursor)
def cancel_many(body: dict[str, Any]) -> Response:
    """Cancel everything that a filter names and that has not ended."""
    done = cancelling.cancel(room().database, room().clock, body["selection"], ACTOR)
    room().notify_cancellation()
    return answer(show.done(done))
