"""JSON responses and entity tags."""

from collections.abc import Mapping
from typing import Any

import orjson
from flask import Response

_JSON_MEDIA_TYPE = "application/json"


def make_json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response. Times are RFC 3339 in UTC."""
    return Response(orjson.dumps(body, option=orjson.OPT_UTC_Z), status, headers, mimetype=_JSON_MEDIA_TYPE)


def format_etag(revision: int) -> str:
    """Return the entity tag of a revision."""
    return f'"{revision}"'
