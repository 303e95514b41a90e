"""/api/v1/batches and /api/v1/workflows: what was accepted together."""

from typing import Any

from flask import Response

from jobworker.api import headers, show
from jobworker.api.answers import answer
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import ACTOR, room
from jobworker.api.schemas.base import PageQuery, page_of
from jobworker.api.schemas.batches import BatchStatus, WorkflowBody
from jobworker.domain.errors import BatchNotFound, IdempotencyKeyReused, InvalidDependency, NotCancellable
from jobworker.domain.workflow import Workflow
from jobworker.services import batches, workflows

blueprint = Blueprint(
    "batches",
    __name__,
    url_prefix=show.ROOT,
    description="What was accepted together: batches, and workflows of steps that need each other.",
)

_LOCATION = {"Location": {"description": "The workflow, as a batch.", "schema": {"type": "string"}}}


@blueprint.post("/workflows")
@blueprint.arguments(WorkflowBody())
@blueprint.allow_large_body()
@blueprint.document_response(202, BatchStatus(), "All steps are accepted.", headers=_LOCATION)
@blueprint.document_headers(headers.IDEMPOTENCY_KEY)
@blueprint.document_problems(IdempotencyKeyReused, InvalidDependency)
def submit_workflow(workflow: Workflow) -> Response:
    """Run steps that need each other: all are accepted, or none if one of them is wrong."""
    accepted = workflows.submit(room().database, room().clock, workflow, ACTOR, headers.once())
    if not accepted.replayed:
        room().record_submissions(len(accepted.execution_ids))
    assert accepted.batch_id, "a workflow is a batch"
    found = batches.get(room().database, accepted.batch_id)
    return answer(show.batch_status(found), 202, {"Location": f"{show.ROOT}/batches/{accepted.batch_id}"})


@blueprint.get("/batches")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(BatchStatus), "Batches and workflows, newest first, without their steps.")
def list_batches(query: dict[str, Any]) -> Response:
    """List batches and workflows."""
    return answer(show.page(batches.page(room().database, query["limit"], query["cursor"]), show.batch_status))


@blueprint.get("/batches/<string:batch_id>")
@blueprint.document_response(200, BatchStatus(), "The batch as it stands.")
@blueprint.document_problems(BatchNotFound)
def get_batch(batch_id: str) -> Response:
    """Read a batch or a workflow: how many executions are in which state."""
    return answer(show.batch_status(batches.get(room().database, batch_id)))


@blueprint.post("/batches/<string:batch_id>/cancel")
@blueprint.document_response(202, BatchStatus(), "Nothing more of it starts; what has started is being stopped.")
@blueprint.document_problems(BatchNotFound, NotCancellable)
def cancel_batch(batch_id: str) -> Response:
    """Cancel all of a batch that has not ended. Asking again changes nothing."""
    found = batches.cancel(room().database, room().clock, batch_id, ACTOR)
    room().notify_cancellation()
    return answer(show.batch_status(found), 202)
