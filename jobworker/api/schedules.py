"""/api/v1/schedules: what starts jobs by itself, and when."""

from typing import Any

from flask import Response

from jobworker.api import headers, show
from jobworker.api.answers import answer, etag
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import ACTOR, room
from jobworker.api.schemas.base import PageQuery, page_of
from jobworker.api.schemas.schedules import (
    Schedule,
    ScheduleBody,
    SchedulePauseBody,
    ScheduleQuery,
    ScheduleReplacementBody,
    ScheduleResumeBody,
    ScheduleRevision,
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
from jobworker.domain.schedule import Missed, Owner
from jobworker.services import schedules
from jobworker.services.schedules import Asked, Changed, Known
from jobworker.store.schedule_lists import Standing

ROOT = f"{show.ROOT}/schedules"

blueprint = Blueprint(
    "schedules",
    __name__,
    url_prefix=ROOT,
    description="Schedules: which job is due when. A URL takes the name of a schedule, or its id.",
)


@blueprint.post("")
@blueprint.arguments(ScheduleBody())
@blueprint.document_response(201, Schedule(), "The schedule as created.", headers=headers.ETAG)
@blueprint.document_problems(ScheduleExists, UnknownQueue)
def create_schedule(body: dict[str, Any]) -> Response:
    """Let a job be started by itself."""
    made = schedules.create(room().database, room().clock, body, ACTOR)
    room().notify_change()
    response = shown(made, 201)
    response.headers["Location"] = f"{ROOT}/{made.row.name}"
    return response


@blueprint.get("")
@blueprint.accept_query(ScheduleQuery())
@blueprint.document_response(200, page_of(Schedule), "Schedules by name.")
def list_schedules(query: dict[str, Any]) -> Response:
    """List schedules; filters are combined with "and"."""
    asked = Asked(
        job=query["job"],
        owner=Owner(query["owner"]) if query["owner"] else None,
        state=Standing(query["state"]) if query["state"] else None,
        calendar=query["calendar"],
        overdue=True if query["overdue"] else None,
    )
    found = schedules.page(room().database, room().clock, asked, query["limit"], query["cursor"])
    return answer(show.page(found, _schedule))


@blueprint.get("/<schedule:name>")
@blueprint.document_response(200, Schedule(), "The schedule.", headers=headers.ETAG)
@blueprint.document_problems(ScheduleNotFound)
def get_schedule(name: str) -> Response:
    """Read a schedule, and how far it has come."""
    return shown(schedules.get(room().database, room().clock, name), 200)


@blueprint.put("/<schedule:name>")
@blueprint.arguments(ScheduleReplacementBody())
@blueprint.document_response(200, Schedule(), "The schedule as changed.", headers=headers.ETAG)
@blueprint.document_headers(headers.IF_MATCH)
@blueprint.document_problems(ScheduleNotFound, ScheduleOwnedElsewhere, PreconditionFailed, PreconditionRequired, UnknownQueue)
def change_schedule(body: dict[str, Any], name: str) -> Response:
    """Replace a schedule; what the body leaves out gets its default. What is due by now stays as it was."""
    expected = headers.expected_revisions()
    changed = schedules.change(room().database, room().clock, name, body, expected, ACTOR)
    room().notify_change()
    return shown(changed, 200)


@blueprint.delete("/<schedule:name>")
@blueprint.document_response(204, None, "The schedule is gone.")
@blueprint.document_headers(headers.IF_MATCH)
@blueprint.document_problems(ScheduleNotFound, ScheduleOwnedElsewhere, PreconditionFailed, PreconditionRequired)
def delete_schedule(name: str) -> Response:
    """Remove a schedule; what it started still runs, and its ledger stays."""
    schedules.remove(room().database, room().clock, name, headers.expected_revisions(), ACTOR)
    room().notify_change()
    return Response(status=204)


@blueprint.post("/<schedule:name>/pause")
@blueprint.arguments(SchedulePauseBody(), required=False)
@blueprint.document_response(200, Schedule(), "It is paused.")
@blueprint.document_problems(ScheduleNotFound, Conflict)
def pause_schedule(body: dict[str, Any], name: str) -> Response:
    """Let a schedule start nothing more for a while. Its occurrences are entered all the same.

    Asking again changes the note and the end.
    """
    paused = schedules.pause(room().database, room().clock, name, body["note"], body["until"], ACTOR)
    room().notify_change()
    return shown(paused, 200)


@blueprint.post("/<schedule:name>/resume")
@blueprint.arguments(ScheduleResumeBody(), required=False)
@blueprint.document_response(200, Schedule(), "It goes on.")
@blueprint.document_problems(ScheduleNotFound, Conflict)
def resume_schedule(body: dict[str, Any], name: str) -> Response:
    """Let a schedule go on, and make up for the occurrences of the pause as it says. Asking again changes nothing."""
    policy = Missed(body["policy"]) if body["policy"] else None
    resumed = schedules.resume(room().database, room().clock, name, policy, ACTOR)
    room().notify_change()
    return shown(resumed, 200)


@blueprint.get("/<schedule:name>/revisions")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(ScheduleRevision), "Revisions, the latest first.")
@blueprint.document_problems(ScheduleNotFound)
def list_schedule_revisions(query: dict[str, Any], name: str) -> Response:
    """List how a schedule was at each time; the revisions of one that was removed are found by its id."""
    found = schedules.revisions(room().database, name, query["limit"], query["cursor"])
    return answer(show.page(found, _revision))


@blueprint.get("/<schedule:name>/revisions/<int:number>")
@blueprint.document_response(200, ScheduleRevision(), "The schedule as it was.")
@blueprint.document_problems(ScheduleNotFound, RevisionNotFound)
def get_schedule_revision(name: str, number: int) -> Response:
    """Read a schedule as it was at a revision."""
    return answer(_revision(schedules.revision(room().database, name, number)))


def shown(found: Known, status: int) -> Response:
    """The answer with a schedule."""
    return answer(_schedule(found), status, {"ETag": etag(found.row.revision)})


def _schedule(found: Known) -> dict[str, Any]:
    row, here = found.row, f"{ROOT}/{found.row.name}"
    paused = {"at": row.paused_at, "by": row.paused_by, "note": row.pause_note, "until": row.paused_until}
    return {
        **row.spec,
        "id": row.id,
        "owner": row.owner.value,
        "revision": row.revision,
        "state": found.standing.value,
        "paused": paused if row.paused_at else None,
        "next_at": found.next_at,
        "settled_until": row.settled_until,
        "expected_by": found.expected_by,
        "overdue": found.overdue,
        "runs": row.runs,
        "failures": row.failures,
        "in_words": found.in_words,
        "warnings": found.warnings,
        "created_at": row.created_at,
        "changed_at": row.changed_at,
        "links": {
            "self": here,
            "job": f"{show.ROOT}/jobs/{row.job}",
            "revisions": f"{here}/revisions",
            "occurrences": f"{here}/occurrences",
            "upcoming": f"{here}/occurrences?upcoming=10",
            "pause": f"{here}/pause",
            "resume": f"{here}/resume",
            "fire": f"{here}/fire",
            "backfill": f"{here}/backfill",
        },
    }


def _revision(found: Changed) -> dict[str, Any]:
    row, schedule_url = found.row, f"{ROOT}/{found.row.schedule_id if found.removed else found.name}"
    # Of one that was removed, what it did is there still.
    related = {"occurrences": f"{schedule_url}/occurrences"} if found.removed else {"schedule": schedule_url}
    return {
        "schedule": found.name,
        "revision": row.revision,
        "created_at": row.created_at,
        "actor": row.actor,
        "changed": found.changed_fields,
        "definition": row.spec,
        "links": {"self": f"{schedule_url}/revisions/{row.revision}", **related},
    }
