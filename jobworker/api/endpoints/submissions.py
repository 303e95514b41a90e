"""Endpoints that submit one execution, or up to 10,000 at once."""

from typing import Any

from flask import Response

from jobworker.api import headers, serializers
from jobworker.api.blueprint import Blueprint
from jobworker.api.context import ACTOR, get_context
from jobworker.api.responses import make_json_response
from jobworker.api.schemas.executions import BatchBodySchema, BatchSchema, ExecutionSchema, SubmissionBodySchema
from jobworker.domain.errors import (
    IdempotencyKeyReused,
    InvalidDependency,
    InvalidParameters,
    JobDisabled,
    JobNotFound,
    JobRemoved,
    TaskNotFound,
    UnknownQueue,
)
from jobworker.domain.executions.execution import FINAL_STATES
from jobworker.domain.submissions.submission import Submission
from jobworker.services.executions import executions
from jobworker.services.submissions import submission
from jobworker.services.workflows.batch_completion import BatchOptions
from jobworker.store.executions.executions import ExecutionRow

blueprint = Blueprint(
    "submissions",
    __name__,
    url_prefix=serializers.ROOT,
    description="Submissions. After a 2xx response the executions are committed to the database and will run.",
)

_LOCATION = {"Location": {"description": "URL of the execution.", "schema": {"type": "string"}}}


@blueprint.post("/jobs/<string:name>/executions")
@blueprint.arguments(SubmissionBodySchema(), required=False)
@blueprint.document_response(202, ExecutionSchema(), "The execution was accepted.", headers=_LOCATION)
@blueprint.document_response(
    200, ExecutionSchema(), "The execution ended within the time that the client preferred to wait.", headers=_LOCATION
)
@blueprint.document_headers(headers.IDEMPOTENCY_KEY, headers.PREFER)
@blueprint.document_problems(
    JobNotFound,
    TaskNotFound,
    JobDisabled,
    JobRemoved,
    IdempotencyKeyReused,
    InvalidParameters,
    InvalidDependency,
    UnknownQueue,
)
def submit(body: dict[str, Any], name: str) -> Response:
    """Submit an execution of a job, to run now or later."""
    request = Submission(job=name, **body)
    row, replayed = submission.submit(
        get_context().database, get_context().clock, request, ACTOR, headers.read_idempotency_key()
    )
    if not replayed:
        get_context().record_submissions(1)
    return _make_submission_response(row)


@blueprint.post("/executions/batch")
@blueprint.arguments(BatchBodySchema())
@blueprint.allow_large_body()
@blueprint.document_response(202, BatchSchema(), "All executions were accepted.")
@blueprint.document_headers(headers.IDEMPOTENCY_KEY)
@blueprint.document_problems(IdempotencyKeyReused, InvalidDependency)
def submit_batch(body: dict[str, Any]) -> Response:
    """Submit a batch of executions. Either all are accepted or, if one is invalid, none."""
    options = BatchOptions(name=body["name"], on_complete=body["on_complete"])
    accepted = submission.submit_batch(
        get_context().database, get_context().clock, body["executions"], ACTOR, headers.read_idempotency_key(), options
    )
    if not accepted.replayed:
        get_context().record_submissions(len(accepted.execution_ids))
    return make_json_response(serializers.serialize_batch(accepted), 202)


def _make_submission_response(row: ExecutionRow) -> Response:
    """Return 202, or 200 with the result if the client preferred to wait and the execution ended in time."""
    seconds = headers.read_preferred_wait()
    # Waiting is best effort: when too many requests wait already, the response is 202 immediately.
    has_waited = seconds > 0 and get_context().waiting_requests.acquire(blocking=False)
    if has_waited:
        try:
            row = executions.wait_for_end(get_context().database, get_context().clock, row.id, seconds)
        finally:
            get_context().waiting_requests.release()
    extra = {"Preference-Applied": f"wait={seconds}"} if has_waited else {}
    status = 200 if has_waited and row.state in FINAL_STATES else 202
    return make_json_response(
        serializers.serialize_execution(row), status, {"Location": f"{serializers.ROOT}/executions/{row.id}", **extra}
    )
