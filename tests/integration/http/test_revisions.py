"""Revisions of definitions, and differences between an execution and the last success."""

from typing import Any

from tests.integration.http.conftest import EXPORT_TASK, ApiDriver

DEFINITION = {"name": "nightly", "task": EXPORT_TASK.name, "defaults": {"user_id": "all"}}


def _change_job(api: ApiDriver, revision: int, **changes: Any) -> None:
    body = {**DEFINITION, **changes}
    answered = api.client.put("/api/v1/jobs/nightly", json=body, headers={"If-Match": f'"{revision}"'})
    assert answered.status_code == 200, answered.json


def _create_nightly(api: ApiDriver) -> None:
    assert api.client.post("/api/v1/jobs", json=DEFINITION).status_code == 201
    _change_job(api, 1, queue="background", retry={"strategy": "fixed", "delay": 5})
    _change_job(api, 2, queue="background", retry={"strategy": "fixed", "delay": 6})


def test_revisions_are_listed_with_their_changes(any_api: ApiDriver) -> None:
    _create_nightly(any_api)
    revisions = any_api.client.get("/api/v1/jobs/nightly/revisions").json["items"]
    assert [(revision["revision"], revision["actor"], revision["changed"]) for revision in revisions] == [
        (3, "api", ["/retry/delay"]),
        (2, "api", ["/queue", "/retry/delay", "/retry/strategy"]),
        (1, "api", None),
    ]
    assert revisions[0]["definition"]["retry"]["delay"] == 6
    assert any_api.client.get(revisions[1]["links"]["self"]).json == revisions[1]


def test_revisions_are_paged(api: ApiDriver) -> None:
    _create_nightly(api)
    first = api.client.get("/api/v1/jobs/nightly/revisions?limit=2").json
    assert [(revision["revision"], len(revision["changed"])) for revision in first["items"]] == [(3, 1), (2, 3)]
    second = api.client.get(f"/api/v1/jobs/nightly/revisions?limit=2&cursor={first['next']}").json
    assert ([revision["revision"] for revision in second["items"]], second["next"]) == ([1], None)


def test_revisions_outlive_their_job(api: ApiDriver) -> None:
    _create_nightly(api)
    assert api.client.delete("/api/v1/jobs/nightly", headers={"If-Match": "*"}).status_code == 204
    assert len(api.client.get("/api/v1/jobs/nightly/revisions").json["items"]) == 3
    assert api.client.get("/api/v1/jobs/nightly/revisions/3").status_code == 200


def test_unknown_revision_returns_404(api: ApiDriver) -> None:
    _create_nightly(api)
    for path, code in (
        ("nightly/revisions/4", "revision_not_found"),
        ("nightly/revisions/0", "revision_not_found"),
        ("nightly/revisions/999999999999999999999", "revision_not_found"),
        ("nihgtly/revisions", "job_not_found"),
        ("nihgtly/revisions/1", "job_not_found"),
    ):
        answered = api.client.get(f"/api/v1/jobs/{path}")
        assert (answered.status_code, answered.json["code"]) == (404, code)
    assert api.client.get("/api/v1/jobs/nightly/revisions/x").status_code == 404


def _create_finished_execution(
    api: ApiDriver, state: str, worker: str = "celery@one:1:a", version: str = "v1", **fields: Any
) -> str:
    execution: str = api.submit_accepted({"parameters": {"user_id": "u-1"}, **fields}, job="nightly")["id"]
    api.enter_state(execution, 1, state, worker=worker, code_version=version)
    return execution


def _get_differences(api: ApiDriver, execution: str) -> list[tuple[str, str, Any, Any]]:
    changes = api.client.get(f"/api/v1/executions/{execution}/changes").json
    return [
        (difference["part"], difference["pointer"], difference["before"], difference["now"])
        for difference in changes["differences"]
    ]


def test_changes_since_the_last_success_are_listed(any_api: ApiDriver) -> None:
    assert any_api.client.post("/api/v1/jobs", json=DEFINITION).status_code == 201
    first = _create_finished_execution(any_api, "Succeeded")
    good = _create_finished_execution(any_api, "Succeeded")
    bad = _create_finished_execution(any_api, "Failed", "celery@one:2:b")
    _change_job(any_api, 1, priority=9)
    worse = _create_finished_execution(
        any_api, "Failed", "celery@two:3:c", "v2", parameters={"user_id": "u-2", "rows": 5}, time_limit=60
    )
    changes = any_api.client.get(f"/api/v1/executions/{bad}/changes").json
    assert (changes["last_success"]["id"], changes["differences"]) == (good, [])
    assert _get_differences(any_api, worse) == [
        ("revision", "", 1, 2),
        ("definition", "/priority", 5, 9),
        ("parameters", "/rows", None, 5),
        ("parameters", "/user_id", "u-1", "u-2"),
        ("overrides", "/time_limit", None, 60),
        ("code_version", "", "v1", "v2"),
        ("worker", "", "celery@one", "celery@two"),
        ("host", "", "one", "two"),
    ]
    nothing = any_api.client.get(f"/api/v1/executions/{first}/changes").json
    assert (nothing["last_success"], nothing["differences"]) == (None, [])


def test_changes_of_a_queued_execution_omit_unknown_values(api: ApiDriver) -> None:
    api.client.post("/api/v1/jobs", json=DEFINITION)
    _create_finished_execution(api, "Succeeded")
    waits = api.submit_accepted({"parameters": {"user_id": "u-1", "format": "json"}}, job="nightly")["id"]
    assert _get_differences(api, waits) == [("parameters", "/format", None, "json")]
    unknown = api.client.get("/api/v1/executions/0199c8a0-0000-7000-8000-000000000000/changes")
    assert (unknown.status_code, unknown.json["code"]) == (404, "execution_not_found")
