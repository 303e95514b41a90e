"""Endpoints /, /healthz, /readyz and /metrics."""

import datetime as dt
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from structlog.testing import capture_logs

from jobworker.clock import SystemClock
from jobworker.domain.schedules.schedule import ScheduleOwner, parse
from jobworker.domain.schedules.time_zones import DATA_VERSION
from jobworker.store.database.database import Database
from jobworker.store.schedules import schedule_rows, time_zone_data
from jobworker.store.tables import core
from jobworker.store.tables.schedules import job_schedules
from jobworker.transport import keys
from jobworker.web import create_app
from tests.integration.http.conftest import ApiDriver, create_api_driver, insert_export_job, make_settings
from tests.servers import PostgresServer, RedisServer


def _record_activity(api: ApiDriver, relay_age: float = 0, beat_age: float = 0) -> None:
    """Record the last activity of relay and beat as this many seconds ago."""
    now = SystemClock().now()
    values = {"turned_at": now - dt.timedelta(seconds=relay_age), "beat_tick_at": now - dt.timedelta(seconds=beat_age)}
    with api.database.write() as connection:
        connection.execute(sa.update(core.relay_state).values(**values))


@pytest.fixture
def ready(api_with_redis: ApiDriver) -> ApiDriver:
    """Driver for the application with all its processes alive."""
    _record_activity(api_with_redis)
    api_with_redis.insert_worker()
    return api_with_redis


@pytest.fixture
def api_with_redis(database: Database, redis_url: str) -> ApiDriver:
    """Driver for the application on either database, with a Redis."""
    insert_export_job(database)
    return create_api_driver(database, REDIS_URL=redis_url)


def _list_failed_checks(response: Any) -> set[str]:
    return {name for name, check in response.json["checks"].items() if check["status"] == "failed"}


def test_index_links_resolve(api: ApiDriver) -> None:
    links = api.client.get("/").json["links"]
    assert {api.client.get(link).status_code for link in links.values()} <= {200, 503}


def test_healthz_checks_no_dependency(tmp_path: Any) -> None:
    unreachable = make_settings(f"sqlite:///{tmp_path}/not/there.db")
    assert create_app(unreachable).test_client().get("/healthz").status_code == 200


def test_readyz_returns_ready_when_all_checks_pass(ready: ApiDriver) -> None:
    response = ready.client.get("/readyz")
    assert (response.status_code, response.json["status"], _list_failed_checks(response)) == (200, "ready", set())
    named = {"database", "disk", "migrations", "redis", "relay", "beat", "workers", "schedules"}
    named |= {"time_zone_data", "content"}
    assert set(response.json["checks"]) == named
    assert response.json["checks"]["time_zone_data"]["detail"] == DATA_VERSION


def test_beat_name_with_invalid_utf_8_does_not_fail_readyz(ready: ApiDriver, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.hset(keys.BEAT, mapping={"leader": b"beat\xff", "zone_data": b"2024b\xfe"})
    response = ready.client.get("/readyz")
    assert (response.status_code, response.json["status"], _list_failed_checks(response)) == (200, "ready", set())
    assert r"2024b\xfe: beat beat\xff" in response.json["checks"]["time_zone_data"]["detail"]


def test_hosts_with_different_time_zone_data_are_reported(ready: ApiDriver, redis_url: str) -> None:
    with ready.database.write() as connection:
        connection.execute(sa.update(core.relay_state).values(leader="alpha:7"))
        time_zone_data.upsert(connection, "2020a (tzdata 2020.1)", b"")
        connection.execute(sa.update(core.workers).values(host="beta", zone_data="2024b (tzdata 2024.2)"))
    with redis.Redis.from_url(redis_url) as client:
        client.hset(keys.BEAT, mapping={"leader": "gamma:9", "zone_data": "2024b (tzdata 2024.2)"})
    with capture_logs() as logged:
        responses = [ready.client.get("/readyz") for _ in range(2)]

    # A data problem must not take this host out of service.
    assert [(response.status_code, response.json["status"]) for response in responses] == [(200, "ready")] * 2
    detail = responses[0].json["checks"]["time_zone_data"]["detail"]
    assert f"has {DATA_VERSION}, others have 2020a (tzdata 2020.1): relay alpha:7; " in detail
    assert "2024b (tzdata 2024.2): beat gamma:9, workers on beta." in detail
    assert "install the same version of tzdata" in detail
    assert [entry["why"] for entry in logged if entry["event"] == "health_warning"].count(detail) == 1


def test_skipped_content_is_reported_and_service_stays_ready(ready: ApiDriver) -> None:
    problem = {"what": "redis key jw:worker:w9", "detail": "it is not an announcement of a worker", "at": "2026-01-01"}
    with ready.database.write() as connection:
        connection.execute(sa.update(core.relay_state).values(problems=[problem]))
    response = ready.client.get("/readyz")
    assert (response.status_code, response.json["status"]) == (200, "ready")
    assert "redis key jw:worker:w9: it is not an announcement" in response.json["checks"]["content"]["detail"]


@pytest.mark.parametrize("problems", [1, "x", {"a": 1}, [1, None, {"what": 1}, {"detail": "x"}]])
def test_unreadable_relay_problems_are_ignored(ready: ApiDriver, problems: Any) -> None:
    with ready.database.write() as connection:
        connection.execute(sa.update(core.relay_state).values(problems=problems))
    assert ready.client.get("/readyz").status_code == 200


def test_missing_processes_are_reported(api_with_redis: ApiDriver) -> None:
    response = api_with_redis.client.get("/readyz")
    assert (response.status_code, response.json["status"]) == (503, "degraded")
    assert _list_failed_checks(response) == {"relay", "beat", "workers"}
    assert "never turned" in response.json["checks"]["relay"]["detail"]


def test_silent_relay_and_beat_are_reported(ready: ApiDriver) -> None:
    _record_activity(ready, relay_age=60, beat_age=120)
    response = ready.client.get("/readyz")
    assert _list_failed_checks(response) == {"relay", "beat"}
    assert "more than 15 s" in response.json["checks"]["relay"]["detail"]


def test_beat_is_judged_by_its_own_tick_when_the_relay_is_dead(ready: ApiDriver, redis_url: str) -> None:
    _record_activity(ready, relay_age=76, beat_age=76)
    with redis.Redis.from_url(redis_url) as client:
        now = SystemClock().now().timestamp()
        client.hset(keys.BEAT, mapping={"leader": "beat", "tick_ms": str(int(now * 1000))})
        assert _list_failed_checks(ready.client.get("/readyz")) == {"relay"}
        # A value of another type is not a tick.
        client.delete(keys.BEAT)
        client.set(keys.BEAT, "something")
    assert _list_failed_checks(ready.client.get("/readyz")) == {"relay", "beat"}


def test_redis_outage_is_reported_without_blaming_beat_and_relay(
    sqlite_database: Database, own_redis: Callable[..., RedisServer]
) -> None:
    server = own_redis()
    insert_export_job(sqlite_database)
    api = create_api_driver(sqlite_database, REDIS_URL=server.url)
    _record_activity(api, relay_age=76, beat_age=76)
    api.insert_worker()
    server.freeze()
    response = api.client.get("/readyz")
    server.thaw()
    assert (response.status_code, _list_failed_checks(response)) == (503, {"redis"})
    assert response.json["checks"]["beat"]["detail"].startswith("not known")
    assert response.json["checks"]["relay"]["detail"].startswith("not known")


def test_lost_workers_do_not_count(api_with_redis: ApiDriver) -> None:
    _record_activity(api_with_redis)
    api_with_redis.insert_worker(is_gone=True)
    assert _list_failed_checks(api_with_redis.client.get("/readyz")) == {"workers"}


def _create_overdue_schedules(api: ApiDriver, **ago: float) -> None:
    """Insert schedules that became due this many seconds ago."""
    now = SystemClock().now()
    with api.database.write() as connection:
        for name, seconds in ago.items():
            schedule = parse({"name": name, "job": "export", "rule": {"kind": "interval", "every": 3600}})
            at = now - dt.timedelta(seconds=seconds)
            schedule_rows.upsert(connection, schedule, ScheduleOwner.API, "api", at - dt.timedelta(hours=1), at)


def test_overdue_schedules_are_reported(ready: ApiDriver) -> None:
    _create_overdue_schedules(ready, early=-300, fresh=30, late=90, later=600)
    response = ready.client.get("/readyz")
    assert (response.status_code, _list_failed_checks(response)) == (503, {"schedules"})
    detail = response.json["checks"]["schedules"]["detail"]
    assert re.fullmatch(r"2 overdue: later \(due 60\d s ago\), late \(due 9\d s ago\)", detail), detail
    samples = _get_samples(ready)
    assert (samples['jobworker_schedules{state="active"}'], samples["jobworker_schedules_overdue"]) == (4, 2)
    assert 600 <= samples["jobworker_schedules_lateness_seconds"] < 700


def test_overdue_schedules_are_listed_up_to_a_limit(ready: ApiDriver) -> None:
    _create_overdue_schedules(ready, **{f"s{number:02}": 1000.0 - number for number in range(12)})
    detail = ready.client.get("/readyz").json["checks"]["schedules"]["detail"]
    assert detail.startswith("12 overdue: s00 (")
    assert detail.endswith("and 2 more")


def test_paused_and_disabled_schedules_are_never_overdue(ready: ApiDriver) -> None:
    _create_overdue_schedules(ready, paused=600, disabled=600)
    with ready.database.write() as connection:
        table = job_schedules
        now = SystemClock().now()
        connection.execute(sa.update(table).where(table.c.name == "paused").values(paused_at=now))
        connection.execute(sa.update(table).where(table.c.name == "disabled").values(enabled=False))
    assert ready.client.get("/readyz").status_code == 200
    samples = _get_samples(ready)
    assert samples["jobworker_schedules_overdue"] == 0
    assert samples['jobworker_schedules{state="paused"}'] == samples['jobworker_schedules{state="disabled"}'] == 1


def test_readyz_is_unready_without_a_database() -> None:
    url = "postgresql+psycopg://nobody:secret@127.0.0.1:1/none?connect_timeout=1"
    response: Any = create_app(make_settings(url)).test_client().get("/readyz")
    assert (response.status_code, response.json["status"]) == (503, "unready")
    assert {"database", "migrations", "relay", "beat", "workers", "schedules"} <= _list_failed_checks(response)
    assert "secret" not in response.text


def test_lost_redis_is_reported(sqlite_database: Database, own_redis: Callable[..., RedisServer]) -> None:
    server = own_redis()
    insert_export_job(sqlite_database)
    api = create_api_driver(sqlite_database, REDIS_URL=server.url)
    _record_activity(api)
    api.insert_worker()
    assert api.client.get("/readyz").status_code == 200
    server.freeze()
    assert _list_failed_checks(api.client.get("/readyz")) == {"redis"}
    server.thaw()
    assert api.client.get("/readyz").status_code == 200
    server.kill()
    assert _list_failed_checks(api.client.get("/readyz")) == {"redis"}


def test_read_only_database_is_reported(api: ApiDriver, redis_url: str) -> None:
    with api.database.write():
        response = api.client.get("/readyz")
    assert (response.status_code, response.json["status"]) == (503, "unready")
    assert "a write has not finished within" in response.json["checks"]["database"]["detail"]


def test_lock_that_blocks_submissions_is_reported(postgres_url: str, redis_url: str) -> None:
    database = Database(postgres_url)
    insert_export_job(database)
    api = create_api_driver(database, REDIS_URL=redis_url)
    _record_activity(api)
    api.insert_worker()
    with database._writer.begin() as holder:
        holder.execute(sa.text("LOCK TABLE executions IN EXCLUSIVE MODE"))
        response = api.client.get("/readyz")
    assert (response.status_code, response.json["status"], _list_failed_checks(response)) == (
        503,
        "unready",
        {"database"},
    )
    assert "a write has not finished within" in response.json["checks"]["database"]["detail"]
    database.dispose()


def test_frozen_database_is_reported_within_seconds(
    postgres: PostgresServer, postgres_url: str, redis_url: str
) -> None:
    database = Database(postgres_url)
    insert_export_job(database)
    api = create_api_driver(database, REDIS_URL=redis_url)
    assert api.client.get("/readyz").status_code == 503
    with postgres.freeze():
        began = time.monotonic()
        response = api.client.get("/readyz")
        assert time.monotonic() - began < 5.0
    checks = response.json["checks"]
    assert {"database", "migrations", "relay", "beat", "workers", "schedules", "content"} <= _list_failed_checks(
        response
    )
    assert "the database does not respond: a read has not finished within" in checks["database"]["detail"]
    assert checks["workers"]["detail"].startswith("not known: the database has not responded")
    database.dispose()


@pytest.mark.every_redis
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("CONFIG SET maxmemory 1000", r"OOM|command not allowed.* of maxmemory 1,000 bytes"),
        ("REPLICAOF 127.0.0.1 1", r"read only replica.*role slave"),
    ],
)
def test_read_only_redis_is_reported(
    sqlite_database: Database, own_redis: Callable[..., RedisServer], command: str, said: str
) -> None:
    server = own_redis()
    insert_export_job(sqlite_database)
    api = create_api_driver(sqlite_database, REDIS_URL=server.url)
    api.insert_worker()
    _record_activity(api, relay_age=60)
    with server.create_client() as client:
        client.execute_command(*command.split())
    response = api.client.get("/readyz")
    # The silent relay is reported as well, because Redis responds to reads.
    assert (response.status_code, _list_failed_checks(response)) == (503, {"redis", "relay"})
    assert re.search(said, response.json["checks"]["redis"]["detail"]), response.json


def _get_samples(api: ApiDriver) -> dict[str, float]:
    response = api.client.get("/metrics")
    assert response.content_type.startswith("text/plain")
    lines = [line for line in response.text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_describe_executions_and_requests(api_with_redis: ApiDriver) -> None:
    api = api_with_redis
    _record_activity(api, relay_age=3)
    api.insert_worker()
    old = api.submit_accepted()["id"]
    api.update_execution(old, due_at=SystemClock().now() - dt.timedelta(seconds=100))
    api.submit_accepted({"parameters": {"user_id": "u"}, "queue": "critical"})
    api.submit_accepted({"parameters": {"user_id": "u"}, "delay": 60})
    api.client.get("/nothing")
    samples = _get_samples(api)
    assert samples["jobworker_submissions_total"] == 3
    assert samples['jobworker_executions{state="Queued"}'] == 2
    assert samples['jobworker_executions{state="Scheduled"}'] == 1
    assert samples['jobworker_executions{state="Running"}'] == 0
    assert samples['jobworker_ready_executions{queue="critical"}'] == 1
    assert 100 <= samples['jobworker_ready_oldest_seconds{queue="default"}'] < 200
    assert samples["jobworker_workers_live"] == 1
    assert samples["jobworker_relay_lag_seconds"] >= 3
    assert samples["jobworker_database_up"] == 1
    submit = 'method="POST",route="/api/v1/jobs/<string:name>/executions"'
    assert samples[f'jobworker_http_requests_total{{{submit},status="202"}}'] == 3
    assert samples[f"jobworker_http_request_seconds_count{{{submit}}}"] == 3
    assert samples['jobworker_http_requests_total{method="GET",route="none",status="404"}'] == 1


def test_empty_queue_disappears_from_metrics(api: ApiDriver) -> None:
    execution = api.submit_accepted()
    assert 'jobworker_ready_executions{queue="default"}' in _get_samples(api)
    api.enter_state(execution["id"], 1, "Succeeded")
    assert 'jobworker_ready_executions{queue="default"}' not in _get_samples(api)


def test_metrics_without_a_database_describe_the_process() -> None:
    url = "postgresql+psycopg://nobody:secret@127.0.0.1:1/none?connect_timeout=1"
    text = create_app(make_settings(url)).test_client().get("/metrics").text
    assert "jobworker_database_up 0.0" in text
    assert re.search(r"process_resident_memory_bytes \d", text)


def test_beat_is_not_required_with_the_internal_scheduling_provider(database: Database, redis_url: str) -> None:
    insert_export_job(database)
    api = create_api_driver(database, REDIS_URL=redis_url, SCHEDULING_PROVIDER="internal")
    _record_activity(api, beat_age=3600)
    api.insert_worker()
    response = api.client.get("/readyz")
    assert (response.status_code, _list_failed_checks(response)) == (200, set())
