"""Endpoints of /api/v1/executions."""

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
from jobworker.services.bulk import cancellation
from jobworker.services.executions import blocker_report, executions
from jobworker.services.jobs import revisions
from jobworker.store.executions.execution_filters import ExecutionFilters

blueprint = Blueprint(
    "executions",
    __name__,
    url_prefix=f"{serializers.ROOT}/executions",
    description="Executions, with their attempts, transitions, logs and results. They are kept.",
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
@blueprint.document_response(200, ExecutionSchema(), "The execution in its current state.")
@blueprint.document_problems(ExecutionNotFound)
def get_execution(execution_id: str) -> Response:
    """Get an execution."""
    return make_json_response(serializers.serialize_execution(executions.get(get_context().database, execution_id)))


@blueprint.get("/<execution:execution_id>/attempts")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(AttemptSchema), "Attempts, oldest first.")
@blueprint.document_problems(ExecutionNotFound)
def list_attempts(query: dict[str, Any], execution_id: str) -> Response:
    """List the attempts of an execution that workers started."""
    page = executions.list_attempts(get_context().database, execution_id, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, serializers.serialize_row))


@blueprint.get("/<execution:execution_id>/transitions")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(TransitionSchema), "State transitions, oldest first.")
@blueprint.document_problems(ExecutionNotFound)
def list_transitions(query: dict[str, Any], execution_id: str) -> Response:
    """List the state transitions of an execution, with time, reason and actor."""
    page = executions.list_transitions(get_context().database, execution_id, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, serializers.serialize_row))


@blueprint.get("/<execution:execution_id>/dependencies")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(DependencySchema), "Parents of the execution.")
@blueprint.document_problems(ExecutionNotFound)
def list_dependencies(query: dict[str, Any], execution_id: str) -> Response:
    """List the parents that an execution waits or waited for, with their states and outcomes."""
    page = executions.list_parents(get_context().database, execution_id, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, serializers.serialize_row))


@blueprint.get("/<execution:execution_id>/logs")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(LogLineSchema), "Log lines, oldest first.")
@blueprint.document_problems(ExecutionNotFound)
def list_logs(query: dict[str, Any], execution_id: str) -> Response:
    """List the log lines of an execution."""
    page = executions.list_log_lines(get_context().database, execution_id, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, serializers.serialize_row))


@blueprint.get("/<execution:execution_id>/changes")
@blueprint.document_response(200, ChangesSchema(), "The differences.")
@blueprint.document_problems(ExecutionNotFound)
def get_changes(execution_id: str) -> Response:
    """Compare an execution with the last earlier execution of its job that succeeded."""
    return make_json_response(
        serializers.serialize_changes(revisions.compare_with_last_success(get_context().database, execution_id))
    )


@blueprint.get("/<execution:execution_id>/result")
@blueprint.document_response(200, ResultSchema(), "The result or the failure.")
@blueprint.document_problems(ExecutionNotFound, ExecutionNotFinished)
def get_result(execution_id: str) -> Response:
    """Get the result or the error of an execution that has ended."""
    return make_json_response(serializers.serialize_result(executions.get_result(get_context().database, execution_id)))


@blueprint.get("/<execution:execution_id>/why")
@blueprint.document_response(200, WhySchema(), "All blockers.")
@blueprint.document_problems(ExecutionNotFound)
def explain(execution_id: str) -> Response:
    """List all blockers: the reasons why an execution has not run or not finished."""
    return make_json_response(
        serializers.serialize_why(
            blocker_report.explain_execution(get_context().database, get_context().clock, execution_id)
        )
    )


@blueprint.post("/<execution:execution_id>/cancel")
@blueprint.document_response(200, ExecutionSchema(), "The execution is Cancelled.")
@blueprint.document_response(
    202, ExecutionSchema(), "The execution will not start, or its worker is stopping it; then it is Cancelled."
)
@blueprint.document_problems(ExecutionNotFound, ExecutionNotCancellable)
def cancel(execution_id: str) -> Response:
    """Cancel an execution that has not ended. Repeating the request changes nothing."""
    row = executions.cancel(get_context().database, get_context().clock, execution_id, ACTOR)
    get_context().notify_cancellation()
    return make_json_response(
        serializers.serialize_execution(row), 200 if row.state is ExecutionState.CANCELLED else 202
    )


@blueprint.post("/cancel")
@blueprint.arguments(CancelBodySchema())
@blueprint.document_response(
    200, DoneSchema(), "Result of the action or of the dry run; `next` is set if executions remain."
)
@blueprint.document_problems(InvalidCursor)
def cancel_many(body: dict[str, Any]) -> Response:
    """Cancel the selected executions that have not ended."""
    result = cancellation.cancel_executions(get_context().database, get_context().clock, body["selection"], ACTOR)
    get_context().notify_cancellation()
    return make_json_response(serializers.serialize_bulk_result(result))
