"""/api/v1/schedules, continued: what was due, what will be, and what would be."""

from typing import Any

from flask import Response

from jobworker.api import headers, show
from jobworker.api.answers import answer
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import ACTOR, room
from jobworker.api.schedules import ROOT
from jobworker.api.schemas.base import page_of
from jobworker.api.schemas.occurrences import (
    SHOWN,
    BackfillBody,
    Backfilled,
    FireBody,
    Fired,
    Occurrence,
    OccurrenceQuery,
    PreviewScheduleBody,
    SchedulePreview,
    split,
)
from jobworker.domain.errors import (
    Conflict,
    IdempotencyKeyReused,
    InvalidParameters,
    JobDisabled,
    JobRemoved,
    NotUnique,
    ScheduleNotFound,
    TaskNotFound,
    UnknownQueue,
)
from jobworker.domain.schedule import Overlap
from jobworker.domain.settling import Outcome
from jobworker.domain.timetable import Timetable
from jobworker.services import backfill as backfills
from jobworker.services import occurrences
from jobworker.services import preview as previews
from jobworker.services.backfill import Order
from jobworker.services.coming import Coming, notes
from jobworker.services.preview import Asked, Compared, Preview
from jobworker.store import occurrences as store_occurrences
from jobworker.store.ledger import Range

blueprint = Blueprint(
    "occurrences",
    __name__,
    url_prefix=ROOT,
    description="Occurrences of schedules: each leaves a row in the ledger, whatever becomes of it.",
)

_LOCATION = {"Location": {"description": "The execution.", "schema": {"type": "string"}}}


@blueprint.post("/preview")
@blueprint.arguments(PreviewScheduleBody())
@blueprint.document_response(200, SchedulePreview(), "What it would do.")
@blueprint.document_problems(ScheduleNotFound, UnknownQueue)
def preview_schedule(body: dict[str, Any]) -> Response:
    """Say when a schedule would be due, without saving it; and what would be different from a saved one."""
    described, about = split(body)
    asked = Asked(described, about["count"], about["after"], about["calendars"], about["schedule"])
    return answer(_preview(previews.preview(room().database, room().clock, asked)))


@blueprint.get("/<schedule:name>/occurrences")
@blueprint.accept_query(OccurrenceQuery())
@blueprint.document_response(200, page_of(Occurrence), "Past ones, the latest first; or those ahead, the first one first.")
@blueprint.document_problems(ScheduleNotFound, Conflict)
def list_occurrences(query: dict[str, Any], name: str) -> Response:
    """List what became of the occurrences of a schedule; with `upcoming`, so many of those that are ahead.

    `from` and `to` go with both. The ledger of a schedule that was removed is found by its id.
    """
    outcome = Outcome(query["outcome"]) if query["outcome"] else None
    wanted = Range(query["begin"], query["end"], outcome)
    if query["upcoming"] is not None:
        found = occurrences.ahead(room().database, name, wanted, query["upcoming"])
        items = [{**_coming(each), "execution_id": None, "recorded_at": None, "links": {}} for each in found]
        return answer({"items": items, "next": None})
    timetable, page = occurrences.past(room().database, name, wanted, query["limit"], query["cursor"])
    return answer(show.page(page, lambda each: _past(each, timetable)))


@blueprint.post("/<schedule:name>/fire")
@blueprint.arguments(FireBody(), required=False)
@blueprint.document_response(202, Fired(), "Its execution is accepted.", headers=_LOCATION)
@blueprint.document_response(200, Fired(), "Nothing was started; the occurrence says why.")
@blueprint.document_headers(headers.IDEMPOTENCY_KEY)
@blueprint.document_problems(ScheduleNotFound, Conflict, JobDisabled, JobRemoved, IdempotencyKeyReused)
def fire_schedule(body: dict[str, Any], name: str) -> Response:
    """Let one more occurrence be due now, also in a pause. Its nominal time is now."""
    overlap = Overlap(body["overlap"]) if body["overlap"] else None
    fired = occurrences.fire(room().database, room().clock, name, overlap, ACTOR, headers.once())
    room().notify_change()
    shown = {
        "occurrence": _past(fired.occurrence, fired.timetable),
        "execution": show.execution(fired.execution) if fired.execution else None,
    }
    if fired.execution is None:
        return answer(shown)
    return answer(shown, 202, {"Location": f"{show.ROOT}/executions/{fired.execution.id}"})


@blueprint.post("/<schedule:name>/backfill")
@blueprint.arguments(BackfillBody())
@blueprint.document_response(200, Backfilled(), "What would be done; or there is nothing to do.")
@blueprint.document_response(202, Backfilled(), "The executions are accepted.")
@blueprint.document_problems(ScheduleNotFound, Conflict, JobDisabled, JobRemoved, NotUnique, TaskNotFound, InvalidParameters)
def backfill_schedule(body: dict[str, Any], name: str) -> Response:
    """Give past occurrences without an execution one, also those before the schedule was created.

    Asked again, it finds nothing left to do.
    """
    asked = backfills.Asked(**{**body, "order": Order(body["order"])})
    done = backfills.backfill(room().database, room().clock, name, asked, ACTOR)
    if done.batch_id is not None:
        room().record_submissions(len(done.items))
    batch = {"batch": f"{show.ROOT}/batches/{done.batch_id}"} if done.batch_id else {}
    shown = {
        "schedule": name,
        "dry_run": asked.dry_run,
        "count": len(done.items),
        "left_out": done.skip_counts,
        "batch_id": done.batch_id,
        "occurrences": done.items[:SHOWN],
        "links": batch,
    }
    return answer(shown, 202 if done.batch_id else 200)


def _past(row: store_occurrences.Occurrence, timetable: Timetable) -> dict[str, Any]:
    return {
        "scheduled_for": row.scheduled_for,
        "local": row.scheduled_for.astimezone(timetable.zone).isoformat(),
        "outcome": row.outcome,
        "reason": row.reason,
        "notes": notes(timetable, row.scheduled_for),
        "execution_id": row.execution_id,
        "recorded_at": row.recorded_at,
        "links": {"execution": f"{show.ROOT}/executions/{row.execution_id}"} if row.execution_id else {},
    }


def _coming(each: Coming) -> dict[str, Any]:
    return {
        "scheduled_for": each.at,
        "local": each.local.isoformat(),
        "outcome": each.outcome.value,
        "reason": each.reason,
        "notes": each.notes,
    }


def _preview(found: Preview) -> dict[str, Any]:
    return {
        "schedule": found.schedule,
        "in_words": found.in_words,
        "warnings": found.warnings,
        "occurrences": [_coming(each) for each in found.moments],
        "difference": _compared(found.compared) if found.compared else None,
    }


def _compared(found: Compared) -> dict[str, Any]:
    return {
        "schedule": found.row.name,
        "revision": found.row.revision,
        "fields": found.fields,
        "comes": found.comes,
        "goes": found.goes,
        "until": found.until,
    }
