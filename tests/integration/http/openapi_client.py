"""Test client that checks every response against /openapi.json."""

import functools
import json
import re
from typing import Any

import jsonschema
import orjson
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from jobworker.api import documentation

#: Statuses that no operation has to document, because they can occur before an operation is found.
_COMMON_STATUSES = {403, 404, 405, 308, 421}


class OpenApiTestClient(FlaskClient):
    """Client that fails the test when a response differs from the description."""

    def open(self, *args: Any, **options: Any) -> TestResponse:
        response = super().open(*args, **options)
        check_response(self, response)
        return response


def check_response(client: FlaskClient, response: TestResponse) -> None:
    """Check status, media type and body of a response against its operation, or against the form of errors."""
    if response.request.method == "HEAD":
        return  # This response has no body.
    document = _load_document()
    operation = _find_operation(client, document, response)
    if response.status_code >= 400 and response.request.path != "/readyz":
        assert response.mimetype == "application/problem+json", response.data
        problem: Any = response.json
        _validate({"$ref": "#/components/schemas/Problem"}, problem)
        assert problem["status"] == response.status_code
        assert problem["request_id"] == response.headers["X-Request-ID"]
    if operation is None or response.status_code == 304:
        return
    described = operation["responses"]
    if str(response.status_code) not in described:
        assert response.status_code in _COMMON_STATUSES, f"{response.request.path} does not document {response.status}"
        return
    content = described[str(response.status_code)].get("content", {})
    if response.mimetype == "application/json" and response.data:
        _validate(content["application/json"]["schema"], response.json)


@functools.cache
def _load_document() -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(documentation.describe())
    for schema in document["components"]["schemas"].values():
        # The description allows additional fields; in these tests an undescribed field is an error.
        schema.setdefault("additionalProperties", False)
    return document


def _find_operation(client: FlaskClient, document: dict[str, Any], response: TestResponse) -> dict[str, Any] | None:
    adapter = client.application.url_map.bind("localhost")
    method = response.request.method
    try:
        rule, _ = adapter.match(response.request.path, method, return_rule=True)
    except HTTPException:
        return None
    path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
    operation: dict[str, Any] | None = document["paths"].get(path, {}).get(method.lower())
    assert operation or path.startswith(("/docs", "/openapi.json")) or method in ("HEAD", "OPTIONS"), path
    return operation


def _validate(schema: dict[str, Any], value: Any) -> None:
    _create_validator(json.dumps(schema)).validate(value)


@functools.cache
def _create_validator(schema: str) -> Any:
    return jsonschema.Draft202012Validator({**json.loads(schema), "components": _load_document()["components"]})
