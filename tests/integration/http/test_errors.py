"""Errors that are independent of an endpoint: each is a problem document that names a remedy."""

import json
import re
from typing import Any

import pytest
import structlog
from flask import Flask

from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.tables import core
from jobworker.web import create_app
from tests.integration.http.conftest import ApiDriver, create_api_driver, insert_export_job, make_settings

JSON_MEDIA_TYPE = "application/json"
SUBMIT_PATH = "/api/v1/jobs/export/executions"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "route_not_found"),
        ("GET", "/api/v1/nothing", 404, "route_not_found"),
        ("GET", "/docs/secret.txt", 404, "route_not_found"),
        ("GET", "/docs/..%2f..%2fetc%2fpasswd", 404, "route_not_found"),
        ("DELETE", "/api/v1/jobs", 405, "method_not_allowed"),
        ("GET", SUBMIT_PATH, 405, "method_not_allowed"),
        ("BREW", "/", 405, "method_not_allowed"),
    ],
)
def test_unknown_route_or_resource_returns_404(api: ApiDriver, method: str, path: str, status: int, code: str) -> None:
    response = api.client.open(path, method=method)
    assert (response.status_code, response.json["code"]) == (status, code)


def test_path_name_with_nul_returns_404(any_api: ApiDriver) -> None:
    span = "?from=2026-01-01&to=2026-02-01"
    read = set()
    for rule in any_api.app.url_map.iter_rules():
        if not rule.arguments:
            continue
        path = re.sub(r"<(?:string|execution|schedule):\w+>", "a%00", rule.rule.replace("<int:number>", "1"))
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
            query = span if path.endswith("/days") else ""
            body: dict[str, Any] = {} if method == "GET" else {"json": {}}
            response = any_api.client.open(f"{path}{query}", method=method, **body)
            assert response.status_code < 500, (method, path)
            if method == "GET":
                read.add(path)
                assert response.status_code == 404, (path, response.json)
    assert {"/api/v1/jobs/a%00/revisions", "/api/v1/calendars/a%00/days", "/api/v1/tasks/a%00"} <= read


#: Unusual URL segments: not ASCII, half a surrogate pair, no UTF-8, NUL, digits of another script, too many digits.
_UNUSUAL_SEGMENTS = (
    "",
    "%C3%A9",
    "%ED%A0%80",
    "%FF",
    "%00",
    "%D9%A3",
    "9" * 5000,
    "-1",
    "1e999",
    "%2B",
    "%F0%9F%92%A9",
)


def test_unusual_url_values_return_client_errors(any_api: ApiDriver) -> None:
    """A value that is refused or unknown is a client error."""
    for template, item in any_api.client.get("/openapi.json").json["paths"].items():
        path = template.replace("{number}", "9" * 30)
        path = re.sub(r"{\w+}", "export", path)
        for method in item.keys() - {"parameters"}:
            names = [
                parameter["name"] for parameter in item[method].get("parameters", ()) if parameter["in"] == "query"
            ]
            for query in ("", *(f"{name}={value}" for name in names for value in _UNUSUAL_SEGMENTS)):
                body: dict[str, Any] = {} if method == "get" else {"json": {}}
                response = any_api.client.open(f"{path}?{query}", method=method.upper(), **body)
                assert response.status_code < 500 or path == "/readyz", (method, path, query)
                if "=" in query and query.startswith("cursor"):
                    assert response.status_code in (404, 422), (path, query)


def test_requests_with_foreign_host_or_origin_are_rejected(sqlite_database: Database) -> None:
    """Requests without a body or with any content type are checked as well, because a web page can send these."""
    insert_export_job(sqlite_database)
    api = create_api_driver(sqlite_database, HOSTS="jobs.example.com")
    pause = "/api/v1/queues/critical/pause"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for headers, status, code in (
        ({"Origin": "https://evil.example", **form}, 403, "cross_site"),
        ({"Sec-Fetch-Site": "cross-site", **form}, 403, "cross_site"),
        ({"Host": "rebind.evil.example:8000"}, 421, "unknown_host"),
    ):
        refused = api.client.post(pause, headers=headers)
        assert (refused.status_code, refused.json["code"]) == (status, code)
    for path in ("/metrics", "/readyz", "/docs", "/openapi.json", "/api/v1/executions"):
        assert api.client.get(path, headers={"Host": "rebind.evil.example"}).status_code == 421
        assert api.client.get(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert api.client.get("/api/v1/queues/critical").json["paused_at"] is None
    assert api.client.post(pause, headers={"Host": "jobs.example.com"}).status_code == 200


def test_wrong_method_response_lists_allowed_methods(api: ApiDriver) -> None:
    assert set(api.client.get(SUBMIT_PATH).headers["Allow"].split(", ")) == {"OPTIONS", "POST"}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "needs a JSON body"),
        (b"\r\n", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{'name': 1}", "not valid JSON"),
        (b'{"priority": NaN}', "not valid JSON"),
        (b'{"priority": Infinity}', "not valid JSON"),
        (b'{"priority": -Infinity}', "not valid JSON"),
        (b'{"priority": 1e999}', "not valid JSON"),
        (b'\xff\xfe{"a": 1}', "not valid JSON"),
        (b'{"name": "\\ud800"}', "not valid JSON"),
        (b'{"name": "a\\u0000b"}', "NUL"),
        (b'{"a\\u0000b": 1}', "NUL"),
        (b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON"),
        (b'{"name": ' + b"[" * 108 + b"]" * 108 + b"}", "more than 100 levels"),
        (b'{"priority": 123456789012345678901234567890}', "64 bits"),
        (b'{"priority": -9223372036854775809}', "64 bits"),
        (b'{"priority": ' + b"9" * 1_000_000 + b"}", "not valid JSON"),
    ],
)
def test_body_that_is_not_accepted_json_returns_400(api: ApiDriver, body: bytes, detail: str) -> None:
    response = api.client.post("/api/v1/jobs", data=body, content_type=JSON_MEDIA_TYPE)
    assert (response.status_code, response.json["code"]) == (400, "invalid_json")
    assert detail in response.json["detail"]


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        (b'{"name": "a", "name": "b"}', "", 'the key "name" twice'),
        (b'{"name": "a:b", "defaults": {"url": "http://a", "x": [1], "url": "http://b"}}', "/defaults", '"url" twice'),
        (b'{"tags": [{"a": 1, "\\u0061": 2}], "name": "\\u003A"}', "/tags/0", 'the key "a" twice'),
        (b'{"defaults": {"a/b": ["x", "\\u0000"]}}', "/defaults/a~1b/1", "NUL"),
        (b'{"defaults": {"a": {"__type__": "uuid", "__value__": "zz"}}}', "/defaults/a", "__type__"),
        (b'{"defaults": {"a": 18446744073709551616}}', "/defaults/a", "64 bits"),
        (b'{"defaults": ' + b"[" * 108 + b"]" * 108 + b"}", "/defaults" + "/0" * 107, "100 levels"),
    ],
)
def test_unstorable_value_is_rejected_with_pointer(api: ApiDriver, body: bytes, pointer: str, detail: str) -> None:
    response = api.client.post("/api/v1/jobs", data=body, content_type=JSON_MEDIA_TYPE)
    assert (response.status_code, response.json["code"]) == (400, "invalid_json")
    assert [(error["pointer"], error["code"]) for error in response.json["errors"]] == [(pointer, "not_kept")]
    assert detail in response.json["detail"]


def test_largest_numbers_and_long_digit_texts_are_accepted(any_api: ApiDriver) -> None:
    options: list[Any] = [2**64 - 1, -(2**63), 1.5e300, "123456789012345678901234567890", {"ü": None}, "a:b", ":"]
    options += [json.loads("[" * 96 + "]" * 96), {"__type__": "uuid"}]
    execution = any_api.submit_accepted({"parameters": {"user_id": "u", "options": options}})
    shown = any_api.client.get(execution["links"]["self"]).json
    assert shown["parameters"]["options"] == options


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_body_of_another_content_type_returns_415(api: ApiDriver, content_type: str) -> None:
    response = api.client.post(SUBMIT_PATH, data=b'{"parameters": {}}', content_type=content_type)
    assert (response.status_code, response.json["code"]) == (415, "unsupported_media_type")


def test_json_suffix_content_type_is_accepted(api: ApiDriver) -> None:
    body = b'{"parameters": {"user_id": "u"}}'
    assert (
        api.client.post(SUBMIT_PATH, data=body, content_type="application/vnd.x+json; charset=utf-8").status_code == 202
    )


def test_body_above_the_limit_returns_413(sqlite_database: Database) -> None:
    insert_export_job(sqlite_database)
    api = create_api_driver(sqlite_database, MAX_BODY="2000")
    response = api.submit({"parameters": {"user_id": "u" * 3000}})
    assert (response.status_code, response.json["code"]) == (413, "body_too_large")
    assert api.submit({"parameters": {"user_id": "u" * 1000}}).status_code == 202


class TestRequestId:
    """Header X-Request-ID."""

    def test_valid_request_id_is_kept(self, api: ApiDriver) -> None:
        response = api.client.get("/nothing", headers={"X-Request-ID": "abc-123"})
        assert (response.headers["X-Request-ID"], response.json["request_id"]) == ("abc-123", "abc-123")

    @pytest.mark.parametrize("request_id", [None, "", "a b", "x" * 129, "<script>", "-first"])
    def test_invalid_request_id_is_replaced(self, api: ApiDriver, request_id: str | None) -> None:
        headers = {} if request_id is None else {"X-Request-ID": request_id}
        first, second = (api.client.get("/healthz", headers=headers).headers["X-Request-ID"] for _ in range(2))
        assert first != second
        assert first != request_id
        assert len(first) == 32


def test_unexpected_error_is_logged_and_hides_details(api: ApiDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(executions, "list_page", explode)
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        response = api.client.get("/api/v1/executions", headers={"X-Request-ID": "it-was-me"})
    assert (response.status_code, response.json["code"]) == (500, "internal_error")
    assert "42" not in response.text
    assert "Traceback" not in response.text
    [line] = [line for line in lines if line["event"] == "unexpected_error"]
    assert line["request_id"] == "it-was-me"
    assert "the secret is 42" in str(line["exc_info"])


def _drop_table(database_url: str, table: str) -> Flask:
    database = Database(database_url)
    with database.write() as connection:
        core.metadata.tables[table].drop(connection)
    database.dispose()
    return create_app(make_settings(database_url))


def test_database_error_returns_503(sqlite_url: str) -> None:
    response = _drop_table(sqlite_url, "workers").test_client().get("/api/v1/executions")
    assert response.status_code == 200
    response = _drop_table(sqlite_url, "execution_logs").test_client().get(f"/api/v1/executions/{'0' * 8}")
    assert response.status_code == 404
    broken = _drop_table(sqlite_url, "tasks").test_client().get("/api/v1/tasks")
    assert (broken.status_code, broken.json["code"]) == (503, "database_unavailable")  # type: ignore[index]
    assert broken.headers["Retry-After"] == "2"


def test_database_without_schema_returns_503_until_upgraded(tmp_path: Any) -> None:
    from jobworker.store import migrate

    url = f"sqlite:///{tmp_path}/new.db"
    client = create_app(make_settings(url)).test_client()
    response: Any = client.get("/api/v1/jobs")
    assert (response.status_code, response.json["code"]) == (503, "busy")
    assert "/readyz" in response.json["detail"]
    assert "jobworker db upgrade" in client.get("/readyz").json["checks"]["migrations"]["detail"]  # type: ignore[index]
    migrate.upgrade(url)
    assert client.get("/api/v1/jobs").status_code == 200
