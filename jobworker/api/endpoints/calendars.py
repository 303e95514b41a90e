"""Endpoints of /api/v1/calendars and /api/v1/countries."""

from typing import Any

from flask import Response, request

from jobworker.api import headers, json_body, serializers
from jobworker.api.blueprint import BINARY_MEDIA_TYPE, Blueprint
from jobworker.api.context import ACTOR, get_context
from jobworker.api.responses import format_etag, make_json_response
from jobworker.api.schemas.base import PageQuerySchema, make_page_schema
from jobworker.api.schemas.calendars import (
    CalendarBodySchema,
    CalendarDaysSchema,
    CalendarImportSchema,
    CalendarReplacementBodySchema,
    CalendarRevisionSchema,
    CalendarSchema,
    CalendarSummarySchema,
    CountriesSchema,
    DaysQuerySchema,
    ImportQuerySchema,
)
from jobworker.domain.calendars import public_holidays
from jobworker.domain.calendars.calendars import WEEKDAYS, format_time_range
from jobworker.domain.errors import (
    CalendarExists,
    CalendarInUse,
    CalendarNotFound,
    CalendarOwnedByCode,
    FieldError,
    InvalidInput,
    PreconditionFailed,
    PreconditionRequired,
    RevisionNotFound,
    ServiceBusy,
)
from jobworker.services.calendars import calendar_changes, calendars, icalendar_import
from jobworker.services.calendars.calendars import CalendarDay, CalendarRevisionView
from jobworker.services.calendars.icalendar_import import CalendarImportRequest, CalendarImportResult
from jobworker.store.calendars.calendar_rows import CalendarRow

ROOT = f"{serializers.ROOT}/calendars"

#: Maximum number of days in a response.
_MAX_DAYS = 366

#: Maximum number of skipped events in the response to an import.
_MAX_LISTED_EVENTS = 100

#: Media types of an iCalendar file; the last is for clients that send files without detecting their type.
_ICALENDAR_MEDIA_TYPES = ("text/calendar", BINARY_MEDIA_TYPE)

blueprint = Blueprint(
    "calendars",
    __name__,
    url_prefix=serializers.ROOT,
    description="Calendars: working time with holidays, or lists of dates. Schedules require or exclude their times.",
)


@blueprint.post("/calendars")
@blueprint.arguments(CalendarBodySchema())
@blueprint.document_response(201, CalendarSchema(), "The created calendar.", headers=headers.ETAG_RESPONSE_HEADER)
@blueprint.document_problems(CalendarExists)
def create_calendar(document: dict[str, Any]) -> Response:
    """Create a calendar."""
    row = calendar_changes.create(get_context().database, get_context().clock, document, ACTOR)
    response = make_calendar_response(row, 201)
    response.headers["Location"] = f"{ROOT}/{row.name}"
    return response


@blueprint.get("/calendars")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(CalendarSummarySchema), "Calendars, sorted by name.")
def list_calendars(query: dict[str, Any]) -> Response:
    """List calendars, without their dates."""
    page = calendars.list_page(get_context().database, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, _serialize_summary))


@blueprint.get("/calendars/<string:name>")
@blueprint.document_response(200, CalendarSchema(), "The calendar.", headers=headers.ETAG_RESPONSE_HEADER)
@blueprint.document_problems(CalendarNotFound)
def get_calendar(name: str) -> Response:
    """Get a calendar. If-None-Match is supported."""
    response = make_calendar_response(calendars.get(get_context().database, name), 200)
    response.make_conditional(request)
    return response


@blueprint.put("/calendars/<string:name>")
@blueprint.arguments(CalendarReplacementBodySchema())
@blueprint.document_response(200, CalendarSchema(), "The changed calendar.", headers=headers.ETAG_RESPONSE_HEADER)
@blueprint.document_headers(headers.IF_MATCH)
@blueprint.document_problems(
    CalendarNotFound, CalendarOwnedByCode, CalendarInUse, PreconditionFailed, PreconditionRequired
)
def change_calendar(document: dict[str, Any], name: str) -> Response:
    """Replace a calendar. Schedules that name it follow; occurrences that are due already do not change."""
    expected = headers.read_expected_revisions()
    row = calendar_changes.change(get_context().database, get_context().clock, name, document, expected, ACTOR)
    get_context().notify_change()
    return make_calendar_response(row, 200)


@blueprint.delete("/calendars/<string:name>")
@blueprint.document_response(204, None, "The calendar was deleted.")
@blueprint.document_headers(headers.IF_MATCH)
@blueprint.document_problems(
    CalendarNotFound, CalendarOwnedByCode, CalendarInUse, PreconditionFailed, PreconditionRequired
)
def delete_calendar(name: str) -> Response:
    """Delete a calendar that no schedule names. Its revisions are kept."""
    calendar_changes.remove(get_context().database, get_context().clock, name, headers.read_expected_revisions(), ACTOR)
    return Response(status=204)


@blueprint.post("/calendars/<string:name>/import")
@blueprint.accept_query(ImportQuerySchema())
@blueprint.allow_large_body()
@blueprint.accept_file(
    "An iCalendar file (RFC 5545) as calendar programs export it; `text/calendar` is accepted as well."
)
@blueprint.document_response(
    200,
    CalendarImportSchema(),
    "The calendar after the import, or in a dry run as it would be.",
    headers=headers.ETAG_RESPONSE_HEADER,
)
@blueprint.document_headers({**headers.IF_MATCH, "required": False})
@blueprint.document_problems(
    CalendarNotFound, CalendarOwnedByCode, PreconditionFailed, PreconditionRequired, ServiceBusy
)
def import_calendar(query: dict[str, Any], name: str) -> Response:
    """Create a calendar of dates from an iCalendar file, or (with If-Match) replace the dates of a calendar.

    Events from one year ago to ten years ahead are imported. A file with unreadable events is rejected, with an error
    for each such event. Events that are free time are skipped unless `include_free=true`.
    """
    options = CalendarImportRequest(
        name,
        json_body.read_file(request, *_ICALENDAR_MEDIA_TYPES),
        query["zone"],
        include_free=query["include_free"] is not None,
        dry_run=query["dry_run"] is not None,
        replaces="If-Match" in request.headers,
        expected=headers.read_expected_revisions() if "If-Match" in request.headers else None,
    )
    result = icalendar_import.import_calendar(get_context().database, get_context().clock, options, ACTOR)
    get_context().notify_change()
    return make_json_response(
        _serialize_import(options, result), 200, {"ETag": format_etag(result.row.revision)} if result.row else None
    )


@blueprint.get("/calendars/<string:name>/days")
@blueprint.accept_query(DaysQuerySchema())
@blueprint.document_response(200, CalendarDaysSchema(), "Days that are in the calendar or that it has a name for.")
@blueprint.document_problems(CalendarNotFound)
def list_calendar_days(query: dict[str, Any], name: str) -> Response:
    """List the days of a calendar in a range, with their times and the names of holidays."""
    first, count = query["first"], (query["end"] - query["first"]).days
    if not 0 < count <= _MAX_DAYS:
        message = f"to must be 1 to {_MAX_DAYS} days after from"
        raise InvalidInput(message, [FieldError("to", "not_allowed", message)])
    days = calendars.list_days(get_context().database, name, first, count)
    return make_json_response({"items": [_serialize_day(day) for day in days]})


@blueprint.get("/calendars/<string:name>/revisions")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(CalendarRevisionSchema), "Revisions, latest first.")
@blueprint.document_problems(CalendarNotFound)
def list_calendar_revisions(query: dict[str, Any], name: str) -> Response:
    """List the revisions of a calendar. They are kept when it is deleted."""
    page = calendars.list_revisions(get_context().database, name, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, _serialize_revision))


@blueprint.get("/calendars/<string:name>/revisions/<int:number>")
@blueprint.document_response(200, CalendarRevisionSchema(), "The revision.")
@blueprint.document_problems(CalendarNotFound, RevisionNotFound)
def get_calendar_revision(name: str, number: int) -> Response:
    """Get a revision of a calendar."""
    return make_json_response(_serialize_revision(calendars.get_revision(get_context().database, name, number)))


@blueprint.get("/countries")
@blueprint.document_response(200, CountriesSchema(), "Countries, sorted by code.")
def list_countries() -> Response:
    """List the countries and subdivisions whose public holidays are known."""
    return make_json_response({"items": public_holidays.list_countries()})


def make_calendar_response(row: CalendarRow, status: int) -> Response:
    """Return the response with a calendar."""
    return make_json_response({**_serialize_summary(row), **row.spec}, status, {"ETag": format_etag(row.revision)})


def _serialize_summary(row: CalendarRow) -> dict[str, Any]:
    url = f"{ROOT}/{row.name}"
    return {
        "name": row.name,
        "kind": row.spec["kind"],
        "description": row.spec.get("description", ""),
        "owner": row.owner.value,
        "revision": row.revision,
        "created_at": row.created_at,
        "changed_at": row.changed_at,
        "links": {
            "self": url,
            "days": f"{url}/days",
            "revisions": f"{url}/revisions",
            "schedules": f"{serializers.ROOT}/schedules?calendar={row.name}",
        },
    }


def _serialize_revision(revision: CalendarRevisionView) -> dict[str, Any]:
    row = revision.row
    url = f"{ROOT}/{row.calendar}"
    links = {"self": f"{url}/revisions/{row.revision}", "calendar": url}
    fields = {name: getattr(row, name) for name in ("calendar", "revision", "created_at", "actor")}
    return {**fields, "changed": revision.changed_fields, "definition": row.spec, "links": links}


def _serialize_import(options: CalendarImportRequest, result: CalendarImportResult) -> dict[str, Any]:
    return {
        "name": options.name,
        "dry_run": options.dry_run,
        "created": result.created,
        "changed": result.changed,
        "revision": result.row.revision if result.row else None,
        "zone": result.contents.zone,
        "from": result.first,
        "to": result.end,
        "events": result.contents.events,
        "days": result.spec["days"],
        "windows": result.spec["windows"],
        "left_out": result.contents.left_out[:_MAX_LISTED_EVENTS],
        "left_out_total": len(result.contents.left_out),
        "links": {"calendar": f"{ROOT}/{options.name}"},
    }


def _serialize_day(day: CalendarDay) -> dict[str, Any]:
    return {
        "date": day.day,
        "weekday": WEEKDAYS[day.day.weekday()],
        "name": day.name,
        "holds": [format_time_range(part) for part in day.parts],
    }
