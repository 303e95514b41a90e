"""Error responses as application/problem+json (RFC 9457), with the only table of HTTP statuses."""

from collections.abc import Iterable, Mapping

import orjson
import structlog
from flask import Flask, Response, g
from werkzeug.exceptions import HTTPException

from jobworker.api.host_check import CrossSiteRequest, UnknownHost
from jobworker.domain import errors
from jobworker.domain.errors import FieldError, JobWorkerError, QueryTooSlow
from jobworker.store.database.database import UNAVAILABLE, is_too_slow

logger = structlog.get_logger(__name__)

PROBLEM_MEDIA_TYPE = "application/problem+json"

#: Value of `Retry-After` (s) in responses with status 429 and 503.
_RETRY_AFTER_SECONDS = 2


class MalformedBody(JobWorkerError):
    """Error for a body that is not acceptable JSON."""

    code = "invalid_json"


class UnsupportedMediaType(JobWorkerError):
    """Error for a body whose declared media type the endpoint does not accept."""

    code = "unsupported_media_type"


class BodyTooSlow(JobWorkerError):
    """Error for a body that did not arrive in time."""

    code = "body_too_slow"


#: HTTP status and title of each error. A class that is missing here has those of its base.
STATUSES: Mapping[type[JobWorkerError], tuple[int, str]] = {
    JobWorkerError: (500, "Unexpected error"),
    MalformedBody: (400, "The body is not valid JSON"),
    UnsupportedMediaType: (415, "The body must be application/json"),
    UnknownHost: (421, "Unknown host"),
    CrossSiteRequest: (403, "The request comes from another site"),
    BodyTooSlow: (408, "The body did not arrive in time"),
    errors.InvalidInput: (422, "The request is invalid"),
    errors.InvalidParameters: (422, "The parameters do not fit the task"),
    errors.InvalidDependency: (422, "The execution cannot depend on this"),
    errors.UnknownQueue: (422, "There is no such queue"),
    errors.InvalidCursor: (422, "The cursor does not belong to this list"),
    errors.IdempotencyKeyReused: (422, "The Idempotency-Key was used for another request"),
    errors.NotFound: (404, "Not found"),
    errors.JobNotFound: (404, "There is no such job"),
    errors.TaskNotFound: (404, "There is no such task"),
    errors.ExecutionNotFound: (404, "There is no such execution"),
    errors.FileNotFound: (404, "There is no such file"),
    errors.FileOnOtherHost: (404, "The file is on another host"),
    errors.RevisionNotFound: (404, "There is no such revision"),
    errors.ScheduleNotFound: (404, "There is no such schedule"),
    errors.CalendarNotFound: (404, "There is no such calendar"),
    errors.QueueNotFound: (404, "There is no such queue"),
    errors.BatchNotFound: (404, "There is no such batch"),
    errors.Conflict: (409, "The request conflicts with the current state"),
    errors.JobExists: (409, "The job exists already"),
    errors.JobOwnedByCode: (409, "The job is defined in code"),
    errors.CalendarExists: (409, "The calendar exists already"),
    errors.CalendarOwnedByCode: (409, "The calendar is defined in code"),
    errors.CalendarInUse: (409, "Schedules use the calendar"),
    errors.JobDisabled: (409, "The job is disabled"),
    errors.JobRemoved: (409, "The job's code has been removed"),
    errors.JobInUse: (409, "Schedules start the job"),
    errors.QueueInUse: (409, "The queue is in use"),
    errors.ScheduleExists: (409, "The schedule exists already"),
    errors.ScheduleOwnedElsewhere: (409, "The schedule is edited elsewhere"),
    errors.UniqueKeyConflict: (409, "Another execution holds the unique key"),
    errors.ExecutionNotFinished: (409, "The execution has not ended"),
    errors.ExecutionNotCancellable: (409, "The execution can no longer be cancelled"),
    errors.NotADeadLetter: (409, "The execution is not an open dead letter"),
    errors.UnreadableRow: (409, "The stored row is not readable"),
    errors.PreconditionRequired: (428, "If-Match is required"),
    errors.PreconditionFailed: (412, "The revision is not the current one"),
    errors.TooManyStreams: (429, "Too many live streams"),
    errors.ServiceBusy: (503, "The service is busy"),
    errors.DatabaseBusy: (503, "The database is busy"),
    errors.QueryTooSlow: (503, "The query takes too long"),
    errors.ConfigurationError: (503, "The service is misconfigured"),
}

#: Codes of errors that Flask and Werkzeug raise.
_HTTP_CODES: Mapping[int, str] = {
    400: "bad_request",
    404: "route_not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    431: "headers_too_large",
}

_HTTP_DETAILS: Mapping[int, str] = {
    404: "no resource has this URL; /docs lists the resources",
    405: "this resource does not support this method; the header Allow lists the supported methods",
    413: "the body is larger than this resource accepts (1 MiB; batches and workflows: JOBWORKER_MAX_BODY); split it",
}


_QUERY_TOO_SLOW_DETAIL = (
    "this query takes too long, or too many such queries are running; filter by job, correlation_id, batch_id or "
    "schedule, or by created_after and created_before that are closer together"
)


def get_status(error_type: type[JobWorkerError]) -> tuple[int, str]:
    """Return status and title of an error, or those of its nearest base in `STATUSES`."""
    return next(STATUSES[base] for base in error_type.__mro__ if base in STATUSES)


def make_problem_response(
    status: int, title: str, code: str, detail: str, field_errors: Iterable[FieldError] = ()
) -> Response:
    """Return the response for an error."""
    body = {
        "type": f"urn:jobworker:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "errors": [{"pointer": error.pointer, "code": error.code, "message": error.message} for error in field_errors],
        "request_id": g.get("request_id"),
    }
    response = Response(orjson.dumps(body), status, mimetype=PROBLEM_MEDIA_TYPE)
    if status in (429, 503):
        response.headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
    return response


def register(app: Flask) -> None:
    """Register the error handlers of this module in `app`."""
    app.register_error_handler(JobWorkerError, _handle_jobworker_error)
    app.register_error_handler(HTTPException, _handle_http_error)
    for kind in set(UNAVAILABLE) - {errors.DatabaseBusy}:
        app.register_error_handler(kind, _handle_database_error)
    app.register_error_handler(Exception, _handle_unexpected_error)


def _handle_jobworker_error(error: JobWorkerError) -> Response:
    status, title = get_status(type(error))
    if status == 500:
        return _handle_unexpected_error(error)
    return make_problem_response(status, title, error.code, error.detail, error.errors)


def _handle_http_error(error: HTTPException) -> Response:
    status = error.code or 500
    detail = _HTTP_DETAILS.get(status, error.description or error.name)
    response = make_problem_response(status, error.name, _HTTP_CODES.get(status, f"http_{status}"), detail)
    # The response keeps other headers of the error, such as `Allow` of a 405.
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _handle_database_error(error: Exception) -> Response:
    if is_too_slow(error):
        return _handle_jobworker_error(QueryTooSlow(_QUERY_TOO_SLOW_DETAIL))
    logger.error("database_unavailable", error=str(error))
    detail = "the database does not respond; this request changed nothing unless its effect is visible later"
    return make_problem_response(503, "The database is unavailable", "database_unavailable", detail)


def _handle_unexpected_error(error: Exception) -> Response:
    logger.error("unexpected_error", exc_info=error)
    detail = "an unexpected error occurred; the log of the service has the details under this request_id"
    return make_problem_response(500, "Unexpected error", JobWorkerError.code, detail)
