"""OpenAPI document (/openapi.json) and its viewer (/docs). All files are served from here, none from a CDN."""

from importlib import resources
from typing import Any

import flask_smorest
import orjson
from flask import Blueprint, Flask, Response, abort, send_from_directory

from jobworker.api.blueprint import URL_CONVERTERS
from jobworker.api.endpoints import (
    batches,
    calendars,
    dead_letters,
    events,
    executions,
    files,
    health,
    jobs,
    occurrences,
    queues,
    retry_preview,
    schedules,
    submissions,
    tasks,
)
from jobworker.api.schemas.base import ProblemSchema

#: The package is used only for its copy of Swagger UI.
_VIEWER = resources.files("flask_swagger_ui") / "dist"
_VIEWER_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")

_DESCRIPTION = """Submit jobs, and look up the history of every execution at any later time.

Every error is `application/problem+json` (RFC 9457) with a stable `code`. Lists have opaque cursors: pass `next` on as
`cursor` with the same filters. Times are RFC 3339 in UTC. Unknown fields and query parameters are errors.
The `X-Request-ID` of a request is used in logs and returned in the response."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>JobWorker API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon-32x32.png">
</head>
<body>
<div id="docs"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

_SCRIPT = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#docs", deepLinking: true, tryItOutEnabled: true, validatorUrl: null,
});
"""

#: The viewer sets styles on its elements and draws icons from data: URLs. Everything else must come from this origin.
_CONTENT_SECURITY_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
)

#: Cache lifetime of viewer files (s), which change only with the package.
_CACHE_SECONDS = 24 * 3600

blueprint = Blueprint("documentation", __name__)


class _OpenApi(flask_smorest.Api):
    """flask-smorest's API without its default error responses: each operation documents its problems."""

    DEFAULT_ERROR_RESPONSE_NAME = None


def register(app: Flask) -> None:
    """Register all blueprints in `app` and build the OpenAPI document."""
    app.config.update(
        API_TITLE="JobWorker", API_VERSION="1", OPENAPI_VERSION="3.1.0", API_SPEC_OPTIONS=_make_spec_options()
    )
    app.url_map.converters.update(URL_CONVERTERS)
    api = _OpenApi(app)
    for converter in URL_CONVERTERS.values():
        api.register_converter(converter, lambda _: {"type": "string", "minLength": 1})
    api.spec.components.schema("Problem", schema=ProblemSchema)
    for endpoint_module in (
        *(jobs, tasks, retry_preview, schedules, occurrences, calendars, submissions, batches, executions),
        *(queues, files, dead_letters, events, health),
    ):
        api.register_blueprint(endpoint_module.blueprint)
    document = (
        orjson.dumps(
            _remove_unused_components(api.spec.to_dict()), option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
        )
        + b"\n"
    )
    app.add_url_rule("/openapi.json", "openapi", lambda: Response(document, mimetype="application/json"))
    app.register_blueprint(blueprint)


def describe() -> bytes:
    """Return the OpenAPI document as it is stored in docs/openapi.json."""
    app = Flask("description", static_folder=None)
    register(app)
    frozen: bytes = app.test_client().get("/openapi.json").data
    return frozen


@blueprint.get("/docs")
def get_docs_page() -> Response:
    """Return the page with the interactive documentation."""
    return Response(_PAGE, mimetype="text/html", headers={"Content-Security-Policy": _CONTENT_SECURITY_POLICY})


@blueprint.get("/docs/start.js")
def get_docs_script() -> Response:
    """Return the script that starts the viewer; a separate file, so that the page needs no inline script."""
    return Response(_SCRIPT, mimetype="text/javascript")


@blueprint.get("/docs/<string:name>")
def get_docs_file(name: str) -> Response:
    """Return a file of the viewer."""
    if name not in _VIEWER_FILES:
        abort(404)
    return send_from_directory(str(_VIEWER), name, max_age=_CACHE_SECONDS)


def _make_spec_options() -> dict[str, Any]:
    return {"info": {"description": _DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}}}


def _remove_unused_components(document: dict[str, Any]) -> dict[str, Any]:
    """Drop flask-smorest's components for its own pagination and errors, and null from the types of parameters."""
    components = document["components"]
    for unused in ("responses", "headers"):
        components.pop(unused, None)
    for unused in ("Error", "PaginationMetadata"):
        components["schemas"].pop(unused, None)
    for item in document["paths"].values():
        for method in item.keys() - {"parameters"}:
            for parameter in item[method].get("parameters", ()):
                _remove_null(parameter["schema"])
    return document


def _remove_null(schema: dict[str, Any]) -> None:
    """Remove null from the schema of an optional parameter: marshmallow adds it, but a URL has no null."""
    if isinstance(schema.get("type"), list):
        [schema["type"]] = [type_name for type_name in schema["type"] if type_name != "null"]
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    if "default" in schema and schema["default"] is None:
        del schema["default"]
