"""Methods of every route: exactly those in `Allow` are implemented."""

from typing import Any

import pytest

from tests.integration.http.conftest import ApiDriver

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS")

#: An id that no resource has. Names of actions are tried as ids and names, too.
_UNUSED_ID = "00000000-0000-7000-8000-000000000000"


def _list_paths(api: ApiDriver) -> dict[str, set[str]]:
    """Return the methods of each path of the description, with a value in place of each parameter."""
    methods_by_path: dict[str, set[str]] = {}
    for template, item in api.client.get("/openapi.json").json["paths"].items():
        path = template.replace("{number}", "1")
        while "{" in path:
            path = path[: path.index("{")] + _UNUSED_ID + path[path.index("}") + 1 :]
        methods = {method.upper() for method in item if method != "parameters"}
        methods_by_path[path] = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
    return methods_by_path


def test_allow_header_lists_the_implemented_methods(api: ApiDriver) -> None:
    for path, methods in _list_paths(api).items():
        allowed = api.client.options(path).headers["Allow"]
        assert set(allowed.split(", ")) == methods, path
        for method in set(_METHODS) - methods:
            response = api.client.open(path, method=method)
            assert response.status_code == 405, (method, path)
            assert set(response.headers["Allow"].split(", ")) == methods, (method, path)
        for method in methods - {"OPTIONS"}:
            assert api.client.open(path, method=method).status_code != 405, (method, path)


@pytest.mark.parametrize("word", ["batch", "cancel"])
def test_action_name_is_not_an_execution_id(api: ApiDriver, word: str) -> None:
    response = api.client.get(f"/api/v1/executions/{word}")
    assert (response.status_code, set(response.headers["Allow"].split(", "))) == (405, {"OPTIONS", "POST"})
    assert api.client.get(f"/api/v1/executions/{word}/attempts").json["code"] == "route_not_found"


def test_schedule_name_of_an_action_is_rejected(api: ApiDriver) -> None:
    rule = {"kind": "daily", "time": "02:00"}
    body: dict[str, Any] = {"name": "preview", "job": "export", "rule": rule, "parameters": {"user_id": "u"}}
    response = api.client.post("/api/v1/schedules", json=body)
    assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, "/name")
    assert "/api/v1/schedules/preview" in response.json["detail"]
    body = {"name": "preview", "task": "tasks.exports.export", "schedule": rule, "defaults": {"user_id": "u"}}
    response = api.client.post("/api/v1/jobs", json=body)
    assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, "/schedule")
    assert api.client.post("/api/v1/jobs", json={**body, "schedule": None}).status_code == 201
