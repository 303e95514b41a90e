"""Endpoints of /api/v1/jobs."""

from dataclasses import replace
from typing import Any

from flask import Response, request

from jobworker.api import headers, serializers
from jobworker.api.blueprint import Blueprint
from jobworker.api.context import ACTOR, get_context
from jobworker.api.responses import format_etag, make_json_response
from jobworker.api.schemas.base import PageQuerySchema, make_page_schema
from jobworker.api.schemas.jobs import DefinitionBodySchema, JobSchema, ReplacementBodySchema
from jobworker.api.schemas.revisions import RevisionSchema
from jobworker.domain.errors import (
    FieldError,
    InvalidInput,
    JobExists,
    JobInUse,
    JobNotFound,
    JobOwnedByCode,
    PreconditionFailed,
    PreconditionRequired,
    RevisionNotFound,
    UnknownQueue,
)
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.services.jobs import jobs, revisions

blueprint = Blueprint(
    "jobs",
    __name__,
    url_prefix=f"{serializers.ROOT}/jobs",
    description="Job definitions: task, queue and policies. Each change creates a revision.",
)


@blueprint.post("")
@blueprint.arguments(DefinitionBodySchema())
@blueprint.document_response(201, JobSchema(), "The created definition.", headers=headers.ETAG_RESPONSE_HEADER)
@blueprint.document_problems(JobExists, UnknownQueue)
def create_job(definition: JobDefinition) -> Response:
    """Create a job definition."""
    job = jobs.create(get_context().database, get_context().clock, definition, ACTOR)
    get_context().notify_change()
    response = _make_job_response(job, 201)
    response.headers["Location"] = f"{serializers.ROOT}/jobs/{definition.name}"
    return response


@blueprint.get("")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(JobSchema), "Definitions, sorted by name.")
def list_jobs(query: dict[str, Any]) -> Response:
    """List job definitions."""
    page = jobs.list_page(get_context().database, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, serializers.serialize_job))


@blueprint.get("/<string:name>")
@blueprint.document_response(200, JobSchema(), "The definition.", headers=headers.ETAG_RESPONSE_HEADER)
@blueprint.document_problems(JobNotFound)
def get_job(name: str) -> Response:
    """Get a job definition. If-None-Match is supported."""
    response = _make_job_response(jobs.get(get_context().database, name), 200)
    response.make_conditional(request)
    return response


@blueprint.put("/<string:name>")
@blueprint.arguments(ReplacementBodySchema())
@blueprint.document_response(200, JobSchema(), "The changed definition.", headers=headers.ETAG_RESPONSE_HEADER)
@blueprint.document_headers(headers.IF_MATCH)
@blueprint.document_problems(JobNotFound, JobOwnedByCode, PreconditionFailed, PreconditionRequired, UnknownQueue)
def change_job(definition: JobDefinition, name: str) -> Response:
    """Replace a job definition. Fields that the body omits get their defaults."""
    expected = headers.read_expected_revisions()
    if definition.name not in ("", name):
        message = f"name is {definition.name}, but the URL has {name}; a job cannot be renamed"
        raise InvalidInput(message, [FieldError("/name", "not_allowed", message)])
    job = jobs.change(get_context().database, get_context().clock, replace(definition, name=name), expected, ACTOR)
    get_context().notify_change()
    return _make_job_response(job, 200)


@blueprint.delete("/<string:name>")
@blueprint.document_response(204, None, "The definition and its schedule were deleted.")
@blueprint.document_headers(headers.IF_MATCH)
@blueprint.document_problems(JobNotFound, JobOwnedByCode, JobInUse, PreconditionFailed, PreconditionRequired)
def delete_job(name: str) -> Response:
    """Delete a job definition. Executions accepted before still run, and history is kept."""
    jobs.remove(get_context().database, get_context().clock, name, headers.read_expected_revisions(), ACTOR)
    get_context().notify_change()
    return Response(status=204)


@blueprint.get("/<string:name>/revisions")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(RevisionSchema), "Revisions, latest first.")
@blueprint.document_problems(JobNotFound)
def list_revisions(query: dict[str, Any], name: str) -> Response:
    """List the revisions of a job definition. They are kept when it is deleted."""
    page = revisions.list_page(get_context().database, name, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, serializers.serialize_revision))


@blueprint.get("/<string:name>/revisions/<int:number>")
@blueprint.document_response(200, RevisionSchema(), "The revision.")
@blueprint.document_problems(JobNotFound, RevisionNotFound)
def get_revision(name: str, number: int) -> Response:
    """Get a revision of a job definition."""
    return make_json_response(serializers.serialize_revision(revisions.get(get_context().database, name, number)))


def _make_job_response(job: jobs.JobView, status: int) -> Response:
    return make_json_response(serializers.serialize_job(job), status, {"ETag": format_etag(job.row.revision)})
