"""Expensive requests: bounded, or refused with an alternative."""

import time

import sqlalchemy as sa

from jobworker.store.database.database import Database
from jobworker.store.database.read_limit import ReadLimit
from jobworker.store.tables.schedules import job_schedules
from tests.conftest import NOW
from tests.integration.http.conftest import ApiDriver


def test_body_limit_depends_on_the_resource(api: ApiDriver) -> None:
    many = b'{"executions":[' + b"[]," * 400_000 + b"[]]}"
    headers = {"Content-Type": "application/json"}
    batch = api.client.post("/api/v1/executions/batch", data=many, headers=headers)
    assert (batch.status_code, batch.json["code"]) == (400, "invalid_json")
    single = api.client.post("/api/v1/jobs/export/executions", data=many, headers=headers)
    assert (single.status_code, single.json["code"]) == (413, "body_too_large")


def test_concurrent_large_bodies_are_limited(api: ApiDriver) -> None:
    large = api.app.extensions["jobworker"].large_body_slots
    places = [large.acquire(blocking=False) for _ in range(4)]
    assert all(places)
    body = {"executions": [{"job": "export", "parameters": {"user_id": "u" * 60_000}}] * 20}
    refused = api.client.post("/api/v1/executions/batch", json=body)
    assert (refused.status_code, refused.json["code"]) == (503, "busy")
    large.release()
    assert api.client.post("/api/v1/executions/batch", json=body).status_code == 202


def test_page_of_large_items_is_shortened_and_the_next_continues(api: ApiDriver) -> None:
    body = {"executions": [{"job": "export", "parameters": {"user_id": "u" * 60_000}}] * 40}
    ids = api.client.post("/api/v1/executions/batch", json=body).json["ids"]
    listed_ids, pages = [], 0
    path = first = "/api/v1/executions?limit=200"
    while pages == 0 or path != first:
        answer = api.client.get(path)
        assert len(answer.data) < 1.1 * 1024 * 1024
        listed_ids += [execution["id"] for execution in answer.json["items"]]
        pages += 1
        path = f"{first}&cursor={answer.json['next']}" if answer.json["next"] else first
    assert (sorted(listed_ids), pages) == (sorted(ids), 3)


def test_unknown_name_lookup_is_fast_among_many_schedules(any_api: ApiDriver) -> None:
    schedules, spec = job_schedules, {"name": "x", "job": "export", "rule": {}}
    fixed = {"job": "export", "owner": "api", "revision": 1, "spec": spec, "enabled": False, "state": "active"}
    fixed |= {"settled_until": NOW, "runs": 0, "failures": 0, "created_at": NOW, "changed_at": NOW}
    with any_api.database.write() as connection:
        names = [{"id": f"{number:036}", "name": f"report-{number:06}"} for number in range(30_000)]
        connection.execute(sa.insert(schedules).values(fixed), names)
    any_api.client.get("/api/v1/schedules/nothing")
    began = time.process_time()
    response = any_api.client.get("/api/v1/schedules/report-01234")
    assert time.process_time() - began < 0.25
    assert response.status_code == 404
    assert "did you mean report-012" in response.json["detail"]
    assert response.json["detail"].endswith("lists all of them")


def test_slow_list_returns_503_that_suggests_filters(api: ApiDriver) -> None:
    body = {"executions": [{"job": "export", "parameters": {"user_id": "u"}}] * 5000}
    assert api.client.post("/api/v1/executions/batch", json=body).status_code == 202
    assert api.client.get("/api/v1/executions?queue=nothing").json["items"] == []
    api.app.extensions["jobworker"].database = Database(str(api.database.url), read_limit=ReadLimit(0.0))
    refused = api.client.get("/api/v1/executions?queue=nothing")
    assert (refused.status_code, refused.json["code"]) == (503, "query_too_slow")
    assert "correlation_id" in refused.json["detail"]
    assert len(api.client.get("/api/v1/executions?limit=10").json["items"]) == 10


def test_unknown_methods_share_one_metric_label(api: ApiDriver) -> None:
    for number in range(5):
        api.client.open("/api/v1/jobs", method=f"INVENTED{number}")
    metrics = api.client.get("/metrics").text
    assert "INVENTED" not in metrics
    assert 'method="other",route="none",status="405"} 5.0' in metrics
