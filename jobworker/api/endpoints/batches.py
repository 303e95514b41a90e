"""Endpoints of /api/v1/batches and /api/v1/workflows."""

from typing import Any

from flask import Response

from jobworker.api import headers, serializers
from jobworker.api.blueprint import Blueprint
from jobworker.api.context import ACTOR, get_context
from jobworker.api.responses import make_json_response
from jobworker.api.schemas.base import PageQuerySchema, make_page_schema
from jobworker.api.schemas.batches import BatchStatusSchema, WorkflowBodySchema
from jobworker.domain.errors import BatchNotFound, ExecutionNotCancellable, IdempotencyKeyReused, InvalidDependency
from jobworker.domain.workflows.workflow import Workflow
from jobworker.services.workflows import batches, workflows

blueprint = Blueprint(
    "batches",
    __name__,
    url_prefix=serializers.ROOT,
    description="Executions that were submitted together: batches, and workflows whose steps depend on each other.",
)

_LOCATION = {"Location": {"description": "URL of the workflow as a batch.", "schema": {"type": "string"}}}


@blueprint.post("/workflows")
@blueprint.arguments(WorkflowBodySchema())
@blueprint.allow_large_body()
@blueprint.document_response(202, BatchStatusSchema(), "All steps were accepted.", headers=_LOCATION)
@blueprint.document_headers(headers.IDEMPOTENCY_KEY)
@blueprint.document_problems(IdempotencyKeyReused, InvalidDependency)
def submit_workflow(workflow: Workflow) -> Response:
    """Submit a workflow. Either all steps are accepted or, if one is invalid, none."""
    accepted = workflows.submit(
        get_context().database, get_context().clock, workflow, ACTOR, headers.read_idempotency_key()
    )
    if not accepted.replayed:
        get_context().record_submissions(len(accepted.execution_ids))
    assert accepted.batch_id, "a workflow is a batch"
    status = batches.get(get_context().database, accepted.batch_id)
    return make_json_response(
        serializers.serialize_batch_status(status), 202, {"Location": f"{serializers.ROOT}/batches/{accepted.batch_id}"}
    )


@blueprint.get("/batches")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(
    200, make_page_schema(BatchStatusSchema), "Batches and workflows, newest first, without their steps."
)
def list_batches(query: dict[str, Any]) -> Response:
    """List batches and workflows."""
    return make_json_response(
        serializers.serialize_page(
            batches.list_page(get_context().database, query["limit"], query["cursor"]),
            serializers.serialize_batch_status,
        )
    )


@blueprint.get("/batches/<string:batch_id>")
@blueprint.document_response(200, BatchStatusSchema(), "The batch and its progress.")
@blueprint.document_problems(BatchNotFound)
def get_batch(batch_id: str) -> Response:
    """Get a batch or workflow, with the number of executions in each state."""
    return make_json_response(serializers.serialize_batch_status(batches.get(get_context().database, batch_id)))


@blueprint.post("/batches/<string:batch_id>/cancel")
@blueprint.document_response(
    202, BatchStatusSchema(), "Waiting executions do not start, and running ones are being stopped."
)
@blueprint.document_problems(BatchNotFound, ExecutionNotCancellable)
def cancel_batch(batch_id: str) -> Response:
    """Cancel all unfinished executions of a batch. Repeating the request changes nothing."""
    status = batches.cancel(get_context().database, get_context().clock, batch_id, ACTOR)
    get_context().notify_cancellation()
    return make_json_response(serializers.serialize_batch_status(status), 202)
