"""Revocation by the API: a cancelled execution does not start, although no relay runs."""

import datetime as dt

import redis

from jobworker.store.database.database import Database
from jobworker.transport import keys
from tests.integration.http.conftest import ApiDriver, create_api_driver, insert_export_job
from tests.polling import wait_until


def _create_published(api: ApiDriver) -> str:
    """Create an execution that waits in Redis for a worker."""
    execution = api.submit_accepted()
    api.update_execution(execution["id"], dispatched_at=dt.datetime.now(dt.UTC))
    return str(execution["id"])


def _get_run_record(client: redis.Redis, execution: str) -> str | None:
    record = client.get(keys.RUN.format(execution=execution))
    return str(record) if record else None


def test_cancelled_execution_is_revoked_by_the_api(database: Database, redis_url: str) -> None:
    insert_export_job(database)
    api = create_api_driver(database, REDIS_URL=redis_url)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        first, second, kept = (_create_published(api) for _ in range(3))
        assert api.client.post(f"/api/v1/executions/{first}/cancel").status_code == 202
        wait_until(
            lambda: (_get_run_record(client, first) or "").startswith("1 revoked "),
            what="its first attempt to be revoked",
        )
        assert api.client.post("/api/v1/executions/cancel", json={"ids": [second]}).status_code == 200
        wait_until(
            lambda: (_get_run_record(client, second) or "").startswith("1 revoked "), what="the other one to be revoked"
        )
        assert _get_run_record(client, kept) is None
    assert api.client.get(f"/api/v1/executions/{first}").json["state"] == "Queued", "that is the relay's to say"


def test_cancelled_batch_members_are_revoked_by_the_api(database: Database, redis_url: str) -> None:
    insert_export_job(database)
    api = create_api_driver(database, REDIS_URL=redis_url)
    item = {"job": "export", "parameters": {"user_id": "u"}}
    batch = api.client.post("/api/v1/executions/batch", json={"executions": [item, item]}).json
    for member in batch["ids"]:
        api.update_execution(member, dispatched_at=dt.datetime.now(dt.UTC))
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert api.client.post(f"/api/v1/batches/{batch['batch_id']}/cancel").status_code == 202
        wait_until(
            lambda: all(
                (_get_run_record(client, execution) or "").startswith("1 revoked ") for execution in batch["ids"]
            )
        )


def test_cancel_request_is_accepted_without_redis(api: ApiDriver) -> None:
    execution = _create_published(api)
    assert api.client.post(f"/api/v1/executions/{execution}/cancel").status_code == 202
    assert api.client.get(f"/api/v1/executions/{execution}").json["cancel_requested_by"] == "api"
