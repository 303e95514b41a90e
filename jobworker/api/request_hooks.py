"""Steps before and after every request: request id, checks, metrics and common headers."""

import re
import uuid
from typing import Any

import structlog
from flask import Flask, Response, g, request

from jobworker.api.context import get_context
from jobworker.api.server import REJECTION_KEY
from jobworker.domain.json import json_values

_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/+=-]{0,127}\Z")

#: Methods that metrics distinguish. A client can invent others, and each would create a time series of its own.
_COUNTED_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

#: Route label in metrics for an unknown URL: the URL itself would create a time series of its own.
_NO_ROUTE = "none"


def register(app: Flask) -> None:
    """Register the steps in `app`."""
    app.url_value_preprocessor(_replace_nul_in_names)
    app.before_request(_start_request)
    app.after_request(_finish_request)


def _replace_nul_in_names(_endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Replace NUL in names in the path, as Werkzeug does with undecodable bytes: PostgreSQL cannot compare it.

    No resource can have such a name, so each view responds as for any other unknown name.
    """
    if values:
        values.update(
            {name: json_values.sanitize_text(value) for name, value in values.items() if isinstance(value, str)}
        )


def _start_request() -> None:
    request_id = request.headers.get("X-Request-ID", "")
    g.request_id = request_id if _VALID_REQUEST_ID.match(request_id) else uuid.uuid4().hex
    g.began = get_context().clock.monotonic()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process="web", request_id=g.request_id)
    if REJECTION_KEY in request.environ:
        rejection = request.environ[REJECTION_KEY]
        if rejection is not None:
            raise rejection
    else:
        get_context().origins.check(request.method, request.path, request.headers)
    if request.path.startswith("/api/"):
        get_context().check_schema()


def _finish_request(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-store")
    metrics = get_context().metrics
    route = request.url_rule.rule if request.url_rule else _NO_ROUTE
    method = request.method if request.method in _COUNTED_METHODS else "other"
    metrics.requests.labels(method, route, response.status_code).inc()
    metrics.request_seconds.labels(method, route).observe(get_context().clock.monotonic() - g.began)
    return response
