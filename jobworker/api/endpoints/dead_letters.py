"""Endpoints of /api/v1/dead-letters, and reruns."""

from typing import Any

from flask import Response

from jobworker.api import serializers
from jobworker.api.blueprint import Blueprint
from jobworker.api.context import ACTOR, get_context
from jobworker.api.responses import make_json_response
from jobworker.api.schemas.base import make_page_schema
from jobworker.api.schemas.bulk_actions import (
    DeadLetterQuerySchema,
    DeadLetterSchema,
    DiscardBodySchema,
    DoneSchema,
    GroupsQuerySchema,
    GroupsSchema,
    NoteBodySchema,
    RedriveBodySchema,
    RerunBodySchema,
)
from jobworker.api.schemas.executions import ExecutionSchema
from jobworker.domain.errors import (
    ExecutionNotFinished,
    ExecutionNotFound,
    InvalidCursor,
    InvalidParameters,
    JobDisabled,
    JobRemoved,
    NotADeadLetter,
    TaskNotFound,
    UniqueKeyConflict,
    UnknownQueue,
)
from jobworker.services.bulk.actions import Selection
from jobworker.services.executions import dead_letters
from jobworker.services.executions.dead_letters import RedriveOptions
from jobworker.store.executions.execution_filters import ExecutionFilters

blueprint = Blueprint(
    "dead-letters",
    __name__,
    url_prefix=serializers.ROOT,
    description="Executions that failed for good: redrive them, also with changed parameters, or discard them.",
)


@blueprint.get("/dead-letters")
@blueprint.accept_query(DeadLetterQuerySchema())
@blueprint.document_response(
    200, make_page_schema(DeadLetterSchema), "Open dead letters, most recently accepted execution first."
)
def list_dead_letters(query: dict[str, Any]) -> Response:
    """List open dead letters; filters are combined with "and"."""
    limit, cursor = query.pop("limit"), query.pop("cursor")
    page = dead_letters.list_page(get_context().database, ExecutionFilters(**query), limit, cursor)
    return make_json_response(serializers.serialize_page(page, serializers.serialize_dead_letter))


@blueprint.get("/dead-letters/groups")
@blueprint.accept_query(GroupsQuerySchema())
@blueprint.document_response(200, GroupsSchema(), "Open dead letters by fingerprint, largest group first.")
def list_groups(query: dict[str, Any]) -> Response:
    """Count open dead letters by kind of failure."""
    groups = dead_letters.list_groups(get_context().database, query["limit"])
    return make_json_response({"items": [serializers.serialize_group(group) for group in groups]})


@blueprint.post("/dead-letters/redrive")
@blueprint.arguments(RedriveBodySchema())
@blueprint.document_response(
    200, DoneSchema(), "Result of the action or of the dry run; `next` is set if executions remain."
)
@blueprint.document_problems(InvalidCursor)
def redrive(body: dict[str, Any]) -> Response:
    """Redrive dead letters, each as a new execution. Repeating the request does not redrive them again."""
    selection: Selection = body.pop("selection")
    result = dead_letters.redrive(get_context().database, get_context().clock, selection, RedriveOptions(**body), ACTOR)
    get_context().notify_change()
    return make_json_response(serializers.serialize_bulk_result(result))


@blueprint.post("/dead-letters/discard")
@blueprint.arguments(DiscardBodySchema())
@blueprint.document_response(
    200, DoneSchema(), "Result of the action or of the dry run; `next` is set if executions remain."
)
@blueprint.document_problems(InvalidCursor)
def discard(body: dict[str, Any]) -> Response:
    """Discard dead letters."""
    result = dead_letters.discard(get_context().database, get_context().clock, body["selection"], body["note"], ACTOR)
    return make_json_response(serializers.serialize_bulk_result(result))


@blueprint.post("/executions/<execution:execution_id>/rerun")
@blueprint.arguments(RerunBodySchema(), required=False)
@blueprint.document_response(
    202,
    ExecutionSchema(),
    "The new execution.",
    headers={"Location": {"description": "URL of the new execution.", "schema": {"type": "string"}}},
)
@blueprint.document_problems(
    ExecutionNotFound,
    ExecutionNotFinished,
    JobDisabled,
    JobRemoved,
    UniqueKeyConflict,
    TaskNotFound,
    InvalidParameters,
    UnknownQueue,
)
def rerun(body: dict[str, Any], execution_id: str) -> Response:
    """Rerun an execution that has ended, in any final state. Repeating the request reruns it once more."""
    row = dead_letters.rerun(get_context().database, get_context().clock, execution_id, RedriveOptions(**body), ACTOR)
    get_context().record_submissions(1)
    return make_json_response(
        serializers.serialize_execution(row), 202, {"Location": f"{serializers.ROOT}/executions/{row.id}"}
    )


@blueprint.post("/executions/<execution:execution_id>/discard")
@blueprint.arguments(NoteBodySchema(), required=False)
@blueprint.document_response(200, ExecutionSchema(), "The dead letter is discarded.")
@blueprint.document_problems(ExecutionNotFound, NotADeadLetter)
def discard_execution(body: dict[str, Any], execution_id: str) -> Response:
    """Discard one dead letter. Repeating the request changes nothing."""
    row = dead_letters.discard_one(get_context().database, get_context().clock, execution_id, body["note"], ACTOR)
    return make_json_response(serializers.serialize_execution(row))
