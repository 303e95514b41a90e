"""/api/v1/calendars: which times are working time, and which dates are listed."""

from typing import Any

from flask import Response, request

from jobworker.api import body, headers, show
from jobworker.api.answers import answer, etag
from jobworker.api.blueprint import BINARY, Blueprint
from jobworker.api.room import ACTOR, room
from jobworker.api.schemas.base import PageQuery, page_of
from jobworker.api.schemas.calendars import (
    Calendar,
    CalendarBody,
    CalendarDays,
    CalendarImport,
    CalendarReplacementBody,
    CalendarRevision,
    CalendarSummary,
    Countries,
    DaysQuery,
    ImportQuery,
)
from jobworker.domain import public_holidays
from jobworker.domain.calendars import WEEKDAYS, span
from jobworker.domain.errors import (
    Busy,
    CalendarExists,
    CalendarInUse,
    CalendarNotFound,
    CalendarOwnedByCode,
    FieldError,
    InvalidInput,
    PreconditionFailed,
    PreconditionRequired,
    RevisionNotFound,
)
from jobworker.services import calendar_editing, calendar_import, calendars
from jobworker.services.calendar_import import Asked, Imported
from jobworker.services.calendars import CalendarDay, Changed
from jobworker.store.calendars import CalendarRow

ROOT = f"{show.ROOT}/calendars"

#: So many days are shown at once.
_MOST_DAYS = 366

#: So many events are told that were left out.
_MOST_LEFT_OUT = 100

#: What says that a body is an iCalendar file; the last is for clients that send files without knowing what they are.
_ICALENDAR = ("text/calendar", BINARY)

blueprint = Blueprint(
    "calendars",
    __name__,
    url_prefix=show.ROOT,
    description="Calendars: working time with holidays, or lists of dates. Schedules are kept to them, or away.",
)


@blueprint.post("/calendars")
@blueprint.arguments(CalendarBody())
@blueprint.document_response(201, Calendar(), "The calendar as created.", headers=headers.ETAG)
@blueprint.document_problems(CalendarExists)
def create_calendar(given: dict[str, Any]) -> Response:
    """Make a calendar."""
    made = calendar_editing.create(room().database, room().clock, given, ACTOR)
    response = shown(made, 201)
    response.headers["Location"] = f"{ROOT}/{made.name}"
    return response


@blueprint.get("/calendars")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(CalendarSummary), "Calendars by name.")
def list_calendars(query: dict[str, Any]) -> Response:
    """List the calendars, without their dates."""
    found = calendars.page(room().database, query["limit"], query["cursor"])
    return answer(show.page(found, _summary))


@blueprint.get("/calendars/<string:name>")
@blueprint.document_response(200, Calendar(), "The calendar.", headers=headers.ETAG)
@blueprint.document_problems(CalendarNotFound)
def get_calendar(name: str) -> Response:
    """Read a calendar; If-None-Match is honoured."""
    response = shown(calendars.get(room().database, name), 200)
    response.make_conditional(request)
    return response


@blueprint.put("/calendars/<string:name>")
@blueprint.arguments(CalendarReplacementBody())
@blueprint.document_response(200, Calendar(), "The calendar as changed.", headers=headers.ETAG)
@blueprint.document_headers(headers.IF_MATCH)
@blueprint.document_problems(CalendarNotFound, CalendarOwnedByCode, CalendarInUse, PreconditionFailed, PreconditionRequired)
def change_calendar(given: dict[str, Any], name: str) -> Response:
    """Replace a calendar; the schedules that name it follow. What is due by now stays as it was."""
    expected = headers.expected_revisions()
    changed = calendar_editing.change(room().database, room().clock, name, given, expected, ACTOR)
    room().notify_change()
    return shown(changed, 200)


@blueprint.delete("/calendars/<string:name>")
@blueprint.document_response(204, None, "The calendar is gone.")
@blueprint.document_headers(headers.IF_MATCH)
@blueprint.document_problems(CalendarNotFound, CalendarOwnedByCode, CalendarInUse, PreconditionFailed, PreconditionRequired)
def delete_calendar(name: str) -> Response:
    """Remove a calendar that no schedule names; its revisions stay."""
    calendar_editing.remove(room().database, room().clock, name, headers.expected_revisions(), ACTOR)
    return Response(status=204)


@blueprint.post("/calendars/<string:name>/import")
@blueprint.accept_query(ImportQuery())
@blueprint.allow_large_body()
@blueprint.accept_file("An iCalendar file (RFC 5545) as calendar programs export it; `text/calendar` is taken as well.")
@blueprint.document_response(200, CalendarImport(), "What the calendar has now, or would have.", headers=headers.ETAG)
@blueprint.document_headers({**headers.IF_MATCH, "required": False})
@blueprint.document_problems(CalendarNotFound, CalendarOwnedByCode, PreconditionFailed, PreconditionRequired, Busy)
def import_calendar(query: dict[str, Any], name: str) -> Response:
    """Make a calendar of dates out of an iCalendar file, or replace the dates of one (with If-Match).

    Events are taken from a year ago to ten years ahead; a file with an event that cannot be read is refused, with an
    error for each such event. Events that are free time are left out, unless `include_free=true`.
    """
    asked = Asked(
        name,
        body.file(request, *_ICALENDAR),
        query["zone"],
        include_free=query["include_free"] is not None,
        dry_run=query["dry_run"] is not None,
        replaces="If-Match" in request.headers,
        expected=headers.expected_revisions() if "If-Match" in request.headers else None,
    )
    done = calendar_import.run(room().database, room().clock, asked, ACTOR)
    room().notify_change()
    return answer(_imported(asked, done), 200, {"ETag": etag(done.row.revision)} if done.row else None)


@blueprint.get("/calendars/<string:name>/days")
@blueprint.accept_query(DaysQuery())
@blueprint.document_response(200, CalendarDays(), "The days that it holds or has names for.")
@blueprint.document_problems(CalendarNotFound)
def list_calendar_days(query: dict[str, Any], name: str) -> Response:
    """See what a calendar says about some days: which times it holds, and what holidays are called."""
    first, count = query["first"], (query["end"] - query["first"]).days
    if not 0 < count <= _MOST_DAYS:
        message = f"to must be 1 to {_MOST_DAYS} days after from"
        raise InvalidInput(message, [FieldError("to", "not_allowed", message)])
    found = calendars.days(room().database, name, first, count)
    return answer({"items": [_day(each) for each in found]})


@blueprint.get("/calendars/<string:name>/revisions")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(CalendarRevision), "Revisions, the latest first.")
@blueprint.document_problems(CalendarNotFound)
def list_calendar_revisions(query: dict[str, Any], name: str) -> Response:
    """List how a calendar was at each time; revisions outlive their calendar."""
    found = calendars.revisions(room().database, name, query["limit"], query["cursor"])
    return answer(show.page(found, _revision))


@blueprint.get("/calendars/<string:name>/revisions/<int:number>")
@blueprint.document_response(200, CalendarRevision(), "The calendar as it was.")
@blueprint.document_problems(CalendarNotFound, RevisionNotFound)
def get_calendar_revision(name: str, number: int) -> Response:
    """Read a calendar as it was at a revision."""
    return answer(_revision(calendars.revision(room().database, name, number)))


@blueprint.get("/countries")
@blueprint.document_response(200, Countries(), "Countries by code.")
def list_countries() -> Response:
    """List the countries, and their parts, whose public holidays are known."""
    return answer({"items": public_holidays.countries()})


def shown(row: CalendarRow, status: int) -> Response:
    """The answer with a calendar."""
    return answer({**_summary(row), **row.spec}, status, {"ETag": etag(row.revision)})


def _summary(row: CalendarRow) -> dict[str, Any]:
    here = f"{ROOT}/{row.name}"
    return {
        "name": row.name,
        "kind": row.spec["kind"],
        "description": row.spec.get("description", ""),
        "owner": row.owner.value,
        "revision": row.revision,
        "created_at": row.created_at,
        "changed_at": row.changed_at,
        "links": {
            "self": here,
            "days": f"{here}/days",
            "revisions": f"{here}/revisions",
            "schedules": f"{show.ROOT}/schedules?calendar={row.name}",
        },
    }


def _revision(found: Changed) -> dict[str, Any]:
    row = found.row
    here = f"{ROOT}/{row.calendar}"
    links = {"self": f"{here}/revisions/{row.revision}", "calendar": here}
    shown = {name: getattr(row, name) for name in ("calendar", "revision", "created_at", "actor")}
    return {**shown, "changed": found.changed_fields, "definition": row.spec, "links": links}


def _imported(asked: Asked, done: Imported) -> dict[str, Any]:
    return {
        "name": asked.name,
        "dry_run": asked.dry_run,
        "created": done.created,
        "changed": done.changed,
        "revision": done.row.revision if done.row else None,
        "zone": done.contents.zone,
        "from": done.first,
        "to": done.end,
        "events": done.contents.events,
        "days": done.spec["days"],
        "windows": done.spec["windows"],
        "left_out": done.contents.left_out[:_MOST_LEFT_OUT],
        "left_out_total": len(done.contents.left_out),
        "links": {"calendar": f"{ROOT}/{asked.name}"},
    }


def _day(found: CalendarDay) -> dict[str, Any]:
    return {
        "date": found.day,
        "weekday": WEEKDAYS[found.day.weekday()],
        "name": found.name,
        "holds": [span(part) for part in found.parts],
    }
