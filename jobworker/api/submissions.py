"""Submitting work: one execution, or up to 10,000 at once."""

from typing import Any

from flask import Response

from jobworker.api import headers, show
from jobworker.api.answers import answer
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import ACTOR, room
from jobworker.api.schemas.executions import Batch, BatchBody, Execution, SubmissionBody
from jobworker.domain.admission import Submission
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
from jobworker.domain.execution import FINAL
from jobworker.services import executions, submission
from jobworker.services.completion import About
from jobworker.store.executions import ExecutionRow

blueprint = Blueprint(
    "submissions",
    __name__,
    url_prefix=show.ROOT,
    description="Submit work. A 2xx answer is a committed row: it will run, whatever happens to the rest.",
)

_LOCATION = {"Location": {"description": "The execution.", "schema": {"type": "string"}}}


@blueprint.post("/jobs/<string:name>/executions")
@blueprint.arguments(SubmissionBody(), required=False)
@blueprint.document_response(202, Execution(), "Accepted.", headers=_LOCATION)
@blueprint.document_response(200, Execution(), "It ended while the client preferred to wait.", headers=_LOCATION)
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
    """Run a job, now or later."""
    wanted = Submission(job=name, **body)
    row, replayed = submission.submit(room().database, room().clock, wanted, ACTOR, headers.once())
    if not replayed:
        room().record_submissions(1)
    return _accepted(row)


@blueprint.post("/executions/batch")
@blueprint.arguments(BatchBody())
@blueprint.allow_large_body()
@blueprint.document_response(202, Batch(), "All are accepted.")
@blueprint.document_headers(headers.IDEMPOTENCY_KEY)
@blueprint.document_problems(IdempotencyKeyReused, InvalidDependency)
def submit_batch(body: dict[str, Any]) -> Response:
    """Run many executions: all are accepted, or none if one of them is wrong."""
    about = About(name=body["name"], on_complete=body["on_complete"])
    accepted = submission.submit_batch(room().database, room().clock, body["executions"], ACTOR, headers.once(), about)
    if not accepted.replayed:
        room().record_submissions(len(accepted.execution_ids))
    return answer(show.batch(accepted), 202)


def _accepted(row: ExecutionRow) -> Response:
    """202, or 200 with the result if the client preferred to wait and it ended in time."""
    seconds = headers.patience()
    # Waiting is a favour: when too many wait already, the answer is 202 at once.
    waited = seconds > 0 and room().waiting_requests.acquire(blocking=False)
    if waited:
        try:
            row = executions.wait(room().database, room().clock, row.id, seconds)
        finally:
            room().waiting_requests.release()
    extra = {"Preference-Applied": f"wait={seconds}"} if waited else {}
    status = 200 if waited and row.state in FINAL else 202
    return answer(show.execution(row), status, {"Location": f"{show.ROOT}/executions/{row.id}", **extra})
