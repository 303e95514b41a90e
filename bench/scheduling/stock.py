"""Stock Celery with stock RedBeat as the peer. `celery -A bench.scheduling.stock beat`; `BENCH_BROKER` is its Redis."""

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
_BATCH = 1000


def make(broker: str) -> Celery:
    """The app with RedBeat's own scheduler and its defaults."""
    made = Celery("stock", broker=broker, set_as_current=False)
    made.conf.update(
        beat_scheduler="redbeat.RedBeatScheduler",
        redbeat_redis_url=broker,
        redbeat_redis_options={},
        task_ignore_result=True,
        result_expires=None,
    )
    return made


def fill(client: redis.Redis, every: float, due: Iterable[dt.datetime]) -> None:
    """Write an entry that RedBeat would have saved for each of these times, due then and every so many seconds."""
    times = list(due)
    for start in range(0, len(times), _BATCH):
        with client.pipeline(transaction=False) as pipeline:
            for number, at in enumerate(times[start : start + _BATCH], start):
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


app = make(os.environ.get("BENCH_BROKER", ""))
