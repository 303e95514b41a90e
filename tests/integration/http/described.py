"""A test client that holds every answer against what /openapi.json promises."""

import functools
import re
from typing import Any

import jsonschema
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

#: Errors that need no line of their own at each operation: they can happen before any operation is found.
_ANYWHERE = {404, 405, 308}


class DescribedClient(FlaskClient):
    """Fails the test when an answer is not what the description says."""

    def open(self, *args: Any, **options: Any) -> TestResponse:
        response = super().open(*args, **options)
        check(self, response)
        return response


def check(client: FlaskClient, response: TestResponse) -> None:
    """Status, media type and body of the answer, against the operation or the form of errors."""
    document = _document(client)
    operation = _operation(client, document, response)
    if response.status_code >= 400 and response.request.path != "/readyz":
        assert response.mimetype == "application/problem+json", response.data
        _validate(document, {"$ref": "#/components/schemas/Problem"}, response.json)
        assert response.json["status"] == response.status_code
        assert response.json["request_id"] == response.headers["X-Request-ID"]
    if operation is None or response.status_code == 304:
        return
    described = operation["responses"]
    if str(response.status_code) not in described:
        assert response.status_code in _ANYWHERE, f"{response.request.path} does not document {response.status}"
        return
    content = described[str(response.status_code)].get("content", {})
    if response.mimetype == "application/json" and response.data:
        _validate(document, content["application/json"]["schema"], response.json)


def _document(client: FlaskClient) -> dict[str, Any]:
    document: dict[str, Any] = _read(client.application)
    return document


@functools.lru_cache(maxsize=4)
def _read(application: Any) -> Any:
    # A plain client: this one would check the description against itself.
    return FlaskClient(application, TestResponse).get("/openapi.json").json


def _operation(client: FlaskClient, document: dict[str, Any], response: TestResponse) -> dict[str, Any] | None:
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


def _validate(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    whole = {**schema, "components": document["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)
