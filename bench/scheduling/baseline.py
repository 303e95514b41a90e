"""Baseline: stock Celery with stock RedBeat, run by `celery -A bench.scheduling.baseline beat`.

`BENCH_BROKER` is the URL of its Redis.
"""

import datetime as dt
import json
import os
from collections.abc import Iterable

import redis
from celery import Celery
from celery.schedules import schedule
from redbeat.decoder import RedBeatJSONEncoder

QUEUE = "celery"

_PREFIX = "redbeat:"
_BATCH_SIZE = 1000


def make_app(broker: str) -> Celery:
    """Return the app with RedBeat's scheduler and its defaults."""
    celery_app = Celery("stock", broker=broker, set_as_current=False)
    celery_app.conf.update(
        beat_scheduler="redbeat.RedBeatScheduler",
        redbeat_redis_url=broker,
        redbeat_redis_options={},
        task_ignore_result=True,
        result_expires=None,
    )
    return celery_app


def insert_schedules(client: redis.Redis, every: float, due: Iterable[dt.datetime]) -> None:
    """Write an entry as RedBeat saves it for each time in `due`, with the interval `every` (s)."""
    times = list(due)
    for start in range(0, len(times), _BATCH_SIZE):
        with client.pipeline(transaction=False) as pipeline:
            for number, at in enumerate(times[start : start + _BATCH_SIZE], start):
                key = f"{_PREFIX}s{number}"
                definition = {
                    "name": f"s{number}",
                    "task": "noop",
                    "args": [],
                    "kwargs": {},
                    "options": {},
                    "schedule": schedule(run_every=every),
                    "enabled": True,
                }
                meta = {"last_run_at": at - dt.timedelta(seconds=every), "total_run_count": 1}
                pipeline.hset(key, "definition", json.dumps(definition, cls=RedBeatJSONEncoder))
                pipeline.hset(key, "meta", json.dumps(meta, cls=RedBeatJSONEncoder))
                pipeline.zadd(f"{_PREFIX}:schedule", {key: int(at.timestamp())})
            pipeline.execute()


app = make_app(os.environ.get("BENCH_BROKER", ""))
