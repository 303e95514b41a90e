"""Description of the API: complete, frozen, and served without resources of other hosts."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from jobworker.api import documentation, problems
from tests.integration.http.conftest import ApiDriver

FROZEN_DESCRIPTION = Path("docs/openapi.json")


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> dict[str, Any]:
    """Operations by method and path."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    }


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Description as served."""
    description: dict[str, Any] = orjson.loads(documentation.describe())
    return description


def test_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    from openapi_spec_validator import validate  # This import takes half a second.

    validate(document)
    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        for field, described in schema["properties"].items():
            if described.get("default") is not None:
                jsonschema.validate(described["default"], {**described, "components": document["components"]})
            types = described.get("type", ())
            assert isinstance(types, str) or len(set(types)) == len(types), (name, field)


def test_schema_references_resolve(document: dict[str, Any]) -> None:
    references = set(re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', FROZEN_DESCRIPTION.read_text()))
    assert references
    assert references <= set(document["components"]["schemas"])


def test_frozen_description_is_up_to_date() -> None:
    assert FROZEN_DESCRIPTION.read_bytes() == documentation.describe(), "python -m jobworker.api > docs/openapi.json"


def test_operations_have_unique_ids_and_summaries(operations: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)
    assert all(
        operation["summary"].endswith((".", "?", ".)")) or operation["summary"] for operation in operations.values()
    )


def test_operations_document_their_problems(operations: dict[str, Any]) -> None:
    for name, operation in operations.items():
        answers = operation["responses"]
        assert {"422", "500", "503"} <= set(answers), name
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= set(answers), name
        if name == "PUT /api/v1/queues/{name}":
            continue  # PUT creates a missing queue, and a queue has no revisions.
        if "{" in name:
            assert "404" in answers, name
        if name.startswith(("PUT", "DELETE")) and "/queues/" not in name:
            assert {"412", "428"} <= set(answers), name
        for status, answer in answers.items():
            if int(status) >= 400 and name != "GET /readyz":
                assert list(answer["content"]) == [problems.PROBLEM_MEDIA_TYPE], (name, status)
                assert re.search(r"`\w+`", answer["description"]), (name, status)


def test_routes_are_all_described(api: ApiDriver, operations: dict[str, Any]) -> None:
    hidden = {"/openapi.json", "/docs", "/docs/start.js", "/docs/<string:name>"}
    routes = {
        f"{method} {re.sub('<.+?>', '{}', rule.rule)}"
        for rule in api.app.url_map.iter_rules()
        if rule.rule not in hidden
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == {re.sub("{.+?}", "{}", name) for name in operations}


def test_openapi_json_is_served(api: ApiDriver) -> None:
    assert api.client.get("/openapi.json").data == FROZEN_DESCRIPTION.read_bytes()


def test_documentation_page_loads_nothing_from_other_hosts(api: ApiDriver) -> None:
    page = api.client.get("/docs")
    assert page.mimetype == "text/html"
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        assert link.startswith("/docs/")
        assert api.client.get(link).status_code == 200
    assert "validatorUrl: null" in api.client.get("/docs/start.js").text
