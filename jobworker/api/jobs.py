"""/api/v1/jobs: definitions."""

from dataclasses import replace
from typing import Any

from flask import Response, request

from jobworker.api import headers, show
from jobworker.api.answers import answer, etag
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import ACTOR, room
from jobworker.api.schemas.base import PageQuery, page_of
from jobworker.api.schemas.jobs import DefinitionBody, Job, ReplacementBody
from jobworker.api.schemas.revisions import Revision
from jobworker.domain.errors import (
    FieldError,
    InvalidInput,
    JobExists,
    JobNotFound,
    JobOwnedByCode,
    JobScheduled,
    PreconditionFailed,
    PreconditionRequired,
    RevisionNotFound,
    UnknownQueue,
)
from jobworker.domain.job import Definition
from jobworker.services import jobs, revisions

blueprint = Blueprint(
    "jobs",
    __name__,
    url_prefix=f"{show.ROOT}/jobs",
    description="Definitions: which task, where it runs, what it may use. Each change makes a revision.",
)


@blueprint.post("")
@blueprint.arguments(DefinitionBody())
@blueprint.document_response(201, Job(), "The definition as created.", headers=headers.ETAG)
@blueprint.document_problems(JobExists, UnknownQueue)
def create_job(definition: Definition) -> Response:
    """Define a job."""
    made = jobs.create(room().database, room().clock, definition, ACTOR)
    room().notify_change()
    response = _shown(made, 201)
    response.headers["Location"] = f"{show.ROOT}/jobs/{definition.name}"
    return response


@blueprint.get("")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(Job), "Definitions by name.")
def list_jobs(query: dict[str, Any]) -> Response:
    """List the job definitions."""
    found = jobs.page(room().database, query["limit"], query["cursor"])
    return answer(show.page(found, show.job))


@blueprint.get("/<string:name>")
@blueprint.document_response(200, Job(), "The definition.", headers=headers.ETAG)
@blueprint.document_problems(JobNotFound)
def get_job(name: str) -> Response:
    """Read a job definition; If-None-Match is honoured."""
    response = _shown(jobs.get(room().database, name), 200)
    response.make_conditional(request)
    return response


@blueprint.put("/<string:name>")
@blueprint.arguments(ReplacementBody())
@blueprint.document_response(200, Job(), "The definition as changed.", headers=headers.ETAG)
@blueprint.document_headers(headers.IF_MATCH)
@blueprint.document_problems(JobNotFound, JobOwnedByCode, PreconditionFailed, PreconditionRequired, UnknownQueue)
def change_job(definition: Definition, name: str) -> Response:
    """Replace a job definition; what the body leaves out gets its default."""
    expected = headers.expected_revisions()
    if definition.name not in ("", name):
        message = f"name is {definition.name}, but the URL says {name}; a job cannot be renamed"
        raise InvalidInput(message, [FieldError("/name", "not_allowed", message)])
    changed = jobs.change(room().database, room().clock, replace(definition, name=name), expected, ACTOR)
    room().notify_change()
    return _shown(changed, 200)


@blueprint.delete("/<string:name>")
@blueprint.document_response(204, None, "The definition and its schedule are gone.")
@blueprint.document_headers(headers.IF_MATCH)
@blueprint.document_problems(JobNotFound, JobOwnedByCode, JobScheduled, PreconditionFailed, PreconditionRequired)
def delete_job(name: str) -> Response:
    """Remove a job definition; executions accepted before still run, and history stays."""
    jobs.remove(room().database, room().clock, name, headers.expected_revisions(), ACTOR)
    room().notify_change()
    return Response(status=204)


@blueprint.get("/<string:name>/revisions")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(Revision), "Revisions, the latest first.")
@blueprint.document_problems(JobNotFound)
def list_revisions(query: dict[str, Any], name: str) -> Response:
    """List how a definition was at each time; revisions outlive their job."""
    found = revisions.page(room().database, name, query["limit"], query["cursor"])
    return answer(show.page(found, show.revision))


@blueprint.get("/<string:name>/revisions/<int:number>")
@blueprint.document_response(200, Revision(), "The definition as it was.")
@blueprint.document_problems(JobNotFound, RevisionNotFound)
def get_revision(name: str, number: int) -> Response:
    """Read a definition as it was at a revision."""
    return answer(show.revision(revisions.get(room().database, name, number)))


def _shown(job: jobs.Job, status: int) -> Response:
    return answer(show.job(job), status, {"ETag": etag(job.row.revision)})
