"""/api/v1/executions: what became of submitted work."""

from typing import Any

from flask import Response

from jobworker.api import serializers
from jobworker.api.blueprint import Blueprint
from jobworker.api.context import ACTOR, get_context
from jobworker.api.responses import make_json_response
from jobworker.api.schemas.base import PageQuerySchema, make_page_schema
from jobworker.api.schemas.bulk_actions import CancelBodySchema, DoneSchema
from jobworker.api.schemas.executions import (
    AttemptSchema,
    DependencySchema,
    ExecutionQuerySchema,
    ExecutionSchema,
    LogLineSchema,
    ResultSchema,
    TransitionSchema,
)
from jobworker.api.schemas.queues import WhySchema
from jobworker.api.schemas.revisions import ChangesSchema
from jobworker.domain.errors import (
    ExecutionNotCancellable,
    ExecutionNotFinished,
    ExecutionNotFound,
    InvalidCursor,
    ScheduleNotFound,
)
from jobworker.domain.executions.execution import ExecutionState
from jobworker.services import blocker_report, executions, revisions
from jobworker.services.bulk import cancellation
from jobworker.store.executions.execution_filters import ExecutionFilters

blueprint = Blueprint(
    "executions",
    __name__,
    url_prefix=f"{serializers.ROOT}/executions",
    description="Executions, their attempts, transitions, logs and results. They are kept.",
)


@blueprint.get("")
@blueprint.accept_query(ExecutionQuerySchema())
@blueprint.document_response(200, make_page_schema(ExecutionSchema), "Executions, newest first.")
@blueprint.document_problems(ScheduleNotFound)
def list_executions(query: dict[str, Any]) -> Response:
    """List executions; filters are combined with "and"."""
    limit, cursor, schedule = query.pop("limit"), query.pop("cursor"), query.pop("schedule")
    page = executions.list_page(get_context().database, ExecutionFilters(**query), limit, cursor, schedule)
    return make_json_response(serializers.serialize_page(page, serializers.serialize_execution))


@blueprint.get("/<execution:execution_id>")
@blueprint.document_response(200, ExecutionSchema(), "The execution as it stands.")
@blueprint.document_problems(ExecutionNotFound)
def get_execution(execution_id: str) -> Response:
    """Read an execution."""
    return make_json_response(serializers.serialize_execution(executions.get(get_context().database, execution_id)))


@blueprint.get("/<execution:execution_id>/attempts")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(AttemptSchema), "Attempts, first to last.")
@blueprint.document_problems(ExecutionNotFound)
def list_attempts(query: dict[str, Any], execution_id: str) -> Response:
    """List the attempts that workers started."""
    page = executions.list_attempts(get_context().database, execution_id, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, serializers.serialize_row))


@blueprint.get("/<execution:execution_id>/transitions")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(TransitionSchema), "Changes of state, first to last.")
@blueprint.document_problems(ExecutionNotFound)
def list_transitions(query: dict[str, Any], execution_id: str) -> Response:
    """List every change of state, with time, reason and actor."""
    page = executions.list_transitions(get_context().database, execution_id, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, serializers.serialize_row))


@blueprint.get("/<execution:execution_id>/dependencies")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(DependencySchema), "What it waits or waited for.")
@blueprint.document_problems(ExecutionNotFound)
def list_dependencies(query: dict[str, Any], execution_id: str) -> Response:
    """List the executions that have to end before this one, how they stand, and what each came to."""
    page = executions.list_parents(get_context().database, execution_id, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, serializers.serialize_row))


@blueprint.get("/<execution:execution_id>/logs")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(LogLineSchema), "Lines, first to last.")
@blueprint.document_problems(ExecutionNotFound)
def list_logs(query: dict[str, Any], execution_id: str) -> Response:
    """List what the job wrote to its log."""
    page = executions.list_log_lines(get_context().database, execution_id, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, serializers.serialize_row))


@blueprint.get("/<execution:execution_id>/changes")
@blueprint.document_response(200, ChangesSchema(), "What is different.")
@blueprint.document_problems(ExecutionNotFound)
def get_changes(execution_id: str) -> Response:
    """Compare an execution with the last one of the same job before it that succeeded."""
    return make_json_response(
        serializers.serialize_changes(revisions.compare_with_last_success(get_context().database, execution_id))
    )


@blueprint.get("/<execution:execution_id>/result")
@blueprint.document_response(200, ResultSchema(), "What came of it.")
@blueprint.document_problems(ExecutionNotFound, ExecutionNotFinished)
def get_result(execution_id: str) -> Response:
    """Read the result, or the error, of an execution that has ended."""
    return make_json_response(serializers.serialize_result(executions.get_result(get_context().database, execution_id)))


@blueprint.get("/<execution:execution_id>/why")
@blueprint.document_response(200, WhySchema(), "Every reason.")
@blueprint.document_problems(ExecutionNotFound)
def explain(execution_id: str) -> Response:
    """Say why an execution has not run, or has not finished: all that it waits for."""
    return make_json_response(
        serializers.serialize_why(
            blocker_report.explain_execution(get_context().database, get_context().clock, execution_id)
        )
    )


@blueprint.post("/<execution:execution_id>/cancel")
@blueprint.document_response(200, ExecutionSchema(), "It is cancelled.")
@blueprint.document_response(202, ExecutionSchema(), "It will not start, or its worker stops it; then it is Cancelled.")
@blueprint.document_problems(ExecutionNotFound, ExecutionNotCancellable)
def cancel(execution_id: str) -> Response:
    """Cancel an execution that has not ended. Asking again changes nothing."""
    row = executions.cancel(get_context().database, get_context().clock, execution_id, ACTOR)
    get_context().notify_cancellation()
    return make_json_response(
        serializers.serialize_execution(row), 200 if row.state is ExecutionState.CANCELLED else 202
    )


@blueprint.post("/cancel")
@blueprint.arguments(CancelBodySchema())
@blueprint.document_response(200, DoneSchema(), "What was done, or would be; `next` says whether something remains.")
@blueprint.document_problems(InvalidCursor)
def cancel_many(body: dict[str, Any]) -> Response:
    """Cancel everything that a filter names and that has not ended."""
    result = cancellation.cancel_executions(get_context().database, get_context().clock, body["selection"], ACTOR)
    get_context().notify_cancellation()
    return make_json_response(serializers.serialize_bulk_result(result))
