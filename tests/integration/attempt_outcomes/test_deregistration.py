"""A deregistered worker stays deregistered, even if its threads continue."""

import contextlib
import datetime as dt
from types import SimpleNamespace

import pytest
import redis

from jobworker.clock import SystemClock
from jobworker.transport import keys
from jobworker.transport.broker.in_flight import InFlight
from jobworker.transport.broker.report_outbox import ReportOutbox
from jobworker.transport.claims import Claims
from jobworker.transport.worker_registry import WorkerAnnouncement, WorkerRegistry
from jobworker.worker.celery.task import JobTask
from jobworker.worker.heartbeat import Heartbeat


def test_heartbeat_after_deregistration_writes_nothing(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_flight = InFlight(
        ReportOutbox("w", SystemClock(), lambda: redis.Redis.from_url(redis_url), lambda: None), "v", SystemClock()
    )
    monkeypatch.setattr(JobTask, "runner", SimpleNamespace(in_flight=in_flight))
    moment = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
    announced = WorkerAnnouncement("w", "host", 1, "threads", 1, ("default",), (), "digest", "v", moment)
    with contextlib.closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        heartbeat = Heartbeat(WorkerRegistry(client, 3.0), Claims(client), announced, [])
        heartbeat.send()
        assert client.zrange(keys.WORKERS, 0, -1) == ["w"]
        heartbeat.deregister()
        heartbeat.send()
        assert client.zrange(keys.WORKERS, 0, -1) == []
        assert not client.exists(keys.WORKER.format(worker="w"))
