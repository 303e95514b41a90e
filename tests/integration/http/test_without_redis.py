"""A submission is one commit without Redis, whether Redis is frozen or absent."""

from collections.abc import Callable

import pytest

from jobworker.store.database.database import Database
from jobworker.transport import keys, notifier
from tests.integration.http.conftest import ApiDriver, create_api_driver, insert_export_job
from tests.polling import wait_until
from tests.servers import RedisServer

ITEM = {"job": "export", "parameters": {"user_id": "u"}}


def _send_each_notifying_request(api: ApiDriver) -> None:
    """Send a request of each kind that notifies the relay."""
    execution = api.submit_accepted({"parameters": {"user_id": "u"}, "delay": 60})
    assert api.client.post("/api/v1/executions/batch", json={"executions": [ITEM] * 3}).status_code == 202
    assert api.client.post(f"/api/v1/executions/{execution['id']}/cancel").status_code == 200
    definition = {"name": "mine", "task": "tasks.exports.export"}
    assert api.client.post("/api/v1/jobs", json=definition).status_code == 201
    assert api.client.put("/api/v1/jobs/mine", json=definition, headers={"If-Match": "*"}).status_code == 200
    assert api.client.delete("/api/v1/jobs/mine", headers={"If-Match": "*"}).status_code == 204
    assert api.count_rows("executions") == 4


def test_requests_succeed_without_redis(api: ApiDriver) -> None:
    _send_each_notifying_request(api)


def test_requests_succeed_while_redis_is_frozen(
    sqlite_database: Database, own_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # With this timeout, a request that waits for Redis waits longer than the test may take.
    monkeypatch.setattr(notifier, "_NOTIFY_TIMEOUT_SECONDS", 3600.0)
    server = own_redis()
    insert_export_job(sqlite_database)
    api = create_api_driver(sqlite_database, REDIS_URL=server.url)
    server.freeze()
    _send_each_notifying_request(api)


def test_submission_wakes_the_relay(sqlite_database: Database, redis_server: RedisServer, redis_url: str) -> None:
    insert_export_job(sqlite_database)
    api = create_api_driver(sqlite_database, REDIS_URL=redis_url)
    api.submit_accepted()
    client = redis_server.create_client()
    wait_until(lambda: client.xlen(keys.WAKE), what="the relay to be notified")
    client.close()
