"""Endpoints of /api/v1/schedules."""

from typing import Any

from flask import Response

from jobworker.api import headers, serializers
from jobworker.api.blueprint import Blueprint
from jobworker.api.context import ACTOR, get_context
from jobworker.api.responses import format_etag, make_json_response
from jobworker.api.schemas.base import PageQuerySchema, make_page_schema
from jobworker.api.schemas.schedules import (
    ScheduleBodySchema,
    SchedulePauseBodySchema,
    ScheduleQuerySchema,
    ScheduleReplacementBodySchema,
    ScheduleResumeBodySchema,
    ScheduleRevisionSchema,
    ScheduleSchema,
)
from jobworker.domain.errors import (
    Conflict,
    PreconditionFailed,
    PreconditionRequired,
    RevisionNotFound,
    ScheduleExists,
    ScheduleNotFound,
    ScheduleOwnedElsewhere,
    UnknownQueue,
)
from jobworker.domain.schedules.schedule import MissedOccurrencePolicy, ScheduleOwner
from jobworker.domain.schedules.state import ScheduleStatus
from jobworker.services.schedules import schedules
from jobworker.services.schedules.schedules import ScheduleCriteria, ScheduleRevisionView, ScheduleView

ROOT = f"{serializers.ROOT}/schedules"

blueprint = Blueprint(
    "schedules",
    __name__,
    url_prefix=ROOT,
    description="Schedules: jobs and the rules by which they are due. URLs accept the name or the id of a schedule.",
)


@blueprint.post("")
@blueprint.arguments(ScheduleBodySchema())
@blueprint.document_response(201, ScheduleSchema(), "The created schedule.", headers=headers.ETAG_RESPONSE_HEADER)
@blueprint.document_problems(ScheduleExists, UnknownQueue)
def create_schedule(body: dict[str, Any]) -> Response:
    """Create a schedule."""
    schedule = schedules.create(get_context().database, get_context().clock, body, ACTOR)
    get_context().notify_change()
    response = make_schedule_response(schedule, 201)
    response.headers["Location"] = f"{ROOT}/{schedule.row.name}"
    return response


@blueprint.get("")
@blueprint.accept_query(ScheduleQuerySchema())
@blueprint.document_response(200, make_page_schema(ScheduleSchema), "Schedules, sorted by name.")
def list_schedules(query: dict[str, Any]) -> Response:
    """List schedules; filters are combined with "and"."""
    filters = ScheduleCriteria(
        job=query["job"],
        owner=ScheduleOwner(query["owner"]) if query["owner"] else None,
        state=ScheduleStatus(query["state"]) if query["state"] else None,
        calendar=query["calendar"],
        overdue=True if query["overdue"] else None,
    )
    page = schedules.list_page(get_context().database, get_context().clock, filters, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, _serialize_schedule))


@blueprint.get("/<schedule:name>")
@blueprint.document_response(200, ScheduleSchema(), "The schedule.", headers=headers.ETAG_RESPONSE_HEADER)
@blueprint.document_problems(ScheduleNotFound)
def get_schedule(name: str) -> Response:
    """Get a schedule with its state."""
    return make_schedule_response(schedules.get(get_context().database, get_context().clock, name), 200)


@blueprint.put("/<schedule:name>")
@blueprint.arguments(ScheduleReplacementBodySchema())
@blueprint.document_response(200, ScheduleSchema(), "The changed schedule.", headers=headers.ETAG_RESPONSE_HEADER)
@blueprint.document_headers(headers.IF_MATCH)
@blueprint.document_problems(
    ScheduleNotFound, ScheduleOwnedElsewhere, PreconditionFailed, PreconditionRequired, UnknownQueue
)
def change_schedule(body: dict[str, Any], name: str) -> Response:
    """Replace a schedule. Omitted fields get their defaults; occurrences that are due already do not change."""
    expected = headers.read_expected_revisions()
    schedule = schedules.change(get_context().database, get_context().clock, name, body, expected, ACTOR)
    get_context().notify_change()
    return make_schedule_response(schedule, 200)


@blueprint.delete("/<schedule:name>")
@blueprint.document_response(204, None, "The schedule was deleted.")
@blueprint.document_headers(headers.IF_MATCH)
@blueprint.document_problems(ScheduleNotFound, ScheduleOwnedElsewhere, PreconditionFailed, PreconditionRequired)
def delete_schedule(name: str) -> Response:
    """Delete a schedule. Its executions still run, and its occurrences are kept."""
    schedules.remove(get_context().database, get_context().clock, name, headers.read_expected_revisions(), ACTOR)
    get_context().notify_change()
    return Response(status=204)


@blueprint.post("/<schedule:name>/pause")
@blueprint.arguments(SchedulePauseBodySchema(), required=False)
@blueprint.document_response(200, ScheduleSchema(), "The schedule is paused.")
@blueprint.document_problems(ScheduleNotFound, Conflict)
def pause_schedule(body: dict[str, Any], name: str) -> Response:
    """Pause a schedule. Its occurrences are still recorded, but start no executions.

    Repeating the request changes the note and the end of the pause.
    """
    schedule = schedules.pause(get_context().database, get_context().clock, name, body["note"], body["until"], ACTOR)
    get_context().notify_change()
    return make_schedule_response(schedule, 200)


@blueprint.post("/<schedule:name>/resume")
@blueprint.arguments(ScheduleResumeBodySchema(), required=False)
@blueprint.document_response(200, ScheduleSchema(), "The schedule is not paused.")
@blueprint.document_problems(ScheduleNotFound, Conflict)
def resume_schedule(body: dict[str, Any], name: str) -> Response:
    """Resume a schedule and treat the occurrences of the pause by its policy. Repeating the request changes nothing."""
    policy = MissedOccurrencePolicy(body["policy"]) if body["policy"] else None
    schedule = schedules.resume(get_context().database, get_context().clock, name, policy, ACTOR)
    get_context().notify_change()
    return make_schedule_response(schedule, 200)


@blueprint.get("/<schedule:name>/revisions")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(ScheduleRevisionSchema), "Revisions, latest first.")
@blueprint.document_problems(ScheduleNotFound)
def list_schedule_revisions(query: dict[str, Any], name: str) -> Response:
    """List the revisions of a schedule. Those of a deleted schedule are listed by its id."""
    page = schedules.list_revisions(get_context().database, name, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, _serialize_revision))


@blueprint.get("/<schedule:name>/revisions/<int:number>")
@blueprint.document_response(200, ScheduleRevisionSchema(), "The revision.")
@blueprint.document_problems(ScheduleNotFound, RevisionNotFound)
def get_schedule_revision(name: str, number: int) -> Response:
    """Get a revision of a schedule."""
    return make_json_response(_serialize_revision(schedules.get_revision(get_context().database, name, number)))


def make_schedule_response(schedule: ScheduleView, status: int) -> Response:
    """Return the response with a schedule."""
    return make_json_response(_serialize_schedule(schedule), status, {"ETag": format_etag(schedule.row.revision)})


def _serialize_schedule(schedule: ScheduleView) -> dict[str, Any]:
    row, url = schedule.row, f"{ROOT}/{schedule.row.name}"
    pause = {"at": row.paused_at, "by": row.paused_by, "note": row.pause_note, "until": row.paused_until}
    return {
        **row.spec,
        "id": row.id,
        "owner": row.owner.value,
        "revision": row.revision,
        "state": schedule.status.value,
        "paused": pause if row.paused_at else None,
        "next_at": schedule.next_at,
        "settled_until": row.settled_until,
        "expected_by": schedule.expected_by,
        "overdue": schedule.overdue,
        "runs": row.runs,
        "failures": row.failures,
        "in_words": schedule.in_words,
        "warnings": schedule.warnings,
        "created_at": row.created_at,
        "changed_at": row.changed_at,
        "links": {
            "self": url,
            "job": f"{serializers.ROOT}/jobs/{row.job}",
            "revisions": f"{url}/revisions",
            "occurrences": f"{url}/occurrences",
            "upcoming": f"{url}/occurrences?upcoming=10",
            "pause": f"{url}/pause",
            "resume": f"{url}/resume",
            "fire": f"{url}/fire",
            "backfill": f"{url}/backfill",
        },
    }


def _serialize_revision(revision: ScheduleRevisionView) -> dict[str, Any]:
    row, schedule_url = revision.row, f"{ROOT}/{revision.row.schedule_id if revision.removed else revision.name}"
    # The occurrences of a deleted schedule are kept.
    related_links = {"occurrences": f"{schedule_url}/occurrences"} if revision.removed else {"schedule": schedule_url}
    return {
        "schedule": revision.name,
        "revision": row.revision,
        "created_at": row.created_at,
        "actor": row.actor,
        "changed": revision.changed_fields,
        "definition": row.spec,
        "links": {"self": f"{schedule_url}/revisions/{row.revision}", **related_links},
    }
