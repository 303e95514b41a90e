"""The two that are compared: a Redis and the workers on it, ours or stock Celery's. No relay, no database.

Each is started for one measurement and killed afterwards, so that nothing else runs while one is measured.
"""

import abc
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from celery import Celery

from bench.harness import Harness, get_redis_url, wait_until
from bench.transport import baseline
from jobworker.domain.executions.execution import DEFAULT_PRIORITY
from jobworker.domain.ids import IdFactory
from jobworker.domain.jobs.definition import DEFAULT_QUEUE
from jobworker.transport import keys
from jobworker.transport.publisher import Message, Publisher, get_list_name

#: How workers are started: Celery's own options.
PREFORK = ("--concurrency", "2")
THREADS = ("--pool", "threads", "--concurrency", "8")

_STAGED_QUEUE = "staged"
_BATCH_SIZE = 500


class TransportSystem(Harness, abc.ABC):
    """What the measures ask of either side."""

    #: What `celery -A` is given, the queue of its workers, and the Redis list in which messages wait.
    app: str
    queue: str

    #: Environment of its processes.
    environment: dict[str, str]

    def start(self) -> None:
        """Only the Redis; workers are started by name."""
        self.broker = self.start_redis("redis")
        self._control = Celery("control", broker=get_redis_url(self.broker), set_as_current=False).control

    def start_worker(self, name: str = "worker", options: Sequence[str] = PREFORK) -> None:
        """Start a worker and wait until it takes part."""
        command = ["-m", "celery", "-A", self.app, "worker", "--loglevel", "WARNING", "-n", f"{name}@bench", *options]
        self.start_python(name, command, **self.environment)
        wait_until(lambda: self._is_worker_ready(f"{name}@bench"), what=f"worker {name}")

    @abc.abstractmethod
    def publish(self, task: str, parameters: Iterable[Mapping[str, Any]], queue: str = "") -> list[str]:
        """Send one message for each, to the workers' queue by default; answers what the diary will call them."""

    @abc.abstractmethod
    def get_waiting_list(self, queue: str = "") -> str:
        """The Redis list in which published messages wait."""

    def stage(self, task: str, count: int) -> None:
        """Publish where no worker looks."""
        self.publish(task, ({"number": number} for number in range(count)), _STAGED_QUEUE)

    def release_staged(self) -> None:
        """Give the workers all that was staged at once, so that publishing is not part of what is measured."""
        self.broker.rename(self.get_waiting_list(_STAGED_QUEUE), self.get_waiting_list())

    @abc.abstractmethod
    def is_done(self) -> bool:
        """Whether nothing is queued or in flight and everything is reported."""

    def _is_worker_ready(self, hostname: str) -> bool:
        return bool(self._control.ping(destination=[hostname], timeout=1, limit=1))


class JobWorkerTransport(TransportSystem):
    """JobWorker's worker; nobody reads what it reports."""

    app = "jobworker"
    queue = DEFAULT_QUEUE

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._extra_environment = environment
        self._ids = IdFactory()
        self._published = 0

    def start(self) -> None:
        """Redis, and what is put into it and read from it."""
        super().start()
        self.environment = {
            "JOBWORKER_HOME": str(self.folder),
            "JOBWORKER_REDIS_URL": get_redis_url(self.broker),
            "JOBWORKER_TASKS": "bench.jobs",
            "JOBWORKER_LOG_LEVEL": "WARNING",
            **self._extra_environment,
        }
        self._publisher = Publisher(self.broker)

    def publish(self, task: str, parameters: Iterable[Mapping[str, Any]], queue: str = "") -> list[str]:
        """By the relay's publisher, in batches as it does."""
        messages = [self._make_message(task, each, queue or self.queue) for each in parameters]
        for first in range(0, len(messages), _BATCH_SIZE):
            self._publisher.publish(messages[first : first + _BATCH_SIZE])
        self._published += len(messages)
        return [message.execution for message in messages]

    def get_waiting_list(self, queue: str = "") -> str:
        """One list for each queue and priority."""
        return get_list_name(queue or self.queue, DEFAULT_PRIORITY)

    def _make_message(self, task: str, parameters: Mapping[str, Any], queue: str) -> Message:
        # A first attempt, as the relay makes it of a row.
        return Message(
            execution=self._ids.create_id(time.time_ns() // 1_000_000), attempt=1, job=task, revision=1, task=task,
            queue=queue, priority=DEFAULT_PRIORITY, parameters=parameters, retries=0, max_attempts=1,
            time_limit=None, soft_time_limit=None, correlation_id="bench", scheduled_for=None,
        )  # fmt: skip

    def release_staged(self) -> None:
        """What was staged, and the wake-up token that goes with a publication."""
        super().release_staged()
        self.broker.lpush(keys.READY.format(queue=self.queue), 1)

    def is_done(self) -> bool:
        """Nothing queued, nothing in flight, and Running and the end of each are in the stream."""
        return self.broker.xlen(keys.EVENTS) >= 2 * self._published and self.is_drained()

    def is_drained(self) -> bool:
        """Nothing queued, nothing in flight."""
        if self.broker.llen(self.get_waiting_list()):
            return False
        client: Any = self.broker
        held = (client.hkeys(keys.INFLIGHT.format(worker=worker)) for worker in self.list_worker_ids())
        # Messages have numbers; the other fields are the worker's book-keeping.
        return not any(tag.isdecimal() for tags in held for tag in tags)

    def list_worker_ids(self) -> list[str]:
        """The ids of the workers that are counted as living."""
        worker_ids: Any = self.broker.zrange(keys.WORKERS, 0, -1)
        return list(worker_ids)

    def read_events(self) -> Iterable[Mapping[str, str]]:
        """Everything that was reported, in order."""
        client: Any = self.broker
        last = "-"
        while page := client.xrange(keys.EVENTS, min=last, count=1000):
            yield from (fields for _, fields in page)
            last = f"({page[-1][0]}"


class CeleryTransport(TransportSystem):
    """Stock Celery."""

    app = "bench.transport.baseline"
    queue = baseline.QUEUE

    def __init__(self, folder: Path, environment: Mapping[str, str], visibility: str | None = None) -> None:
        super().__init__(folder)
        self._extra_environment = {**environment, **({"BENCH_VISIBILITY": visibility} if visibility else {})}

    def start(self) -> None:
        """Redis, and the app with which the bench publishes."""
        super().start()
        self.environment = {"BENCH_BROKER": get_redis_url(self.broker), **self._extra_environment}
        self.celery = baseline.make_app(get_redis_url(self.broker))

    def publish(self, task: str, parameters: Iterable[Mapping[str, Any]], queue: str = "") -> list[str]:
        """By `apply_async`, one by one: there is no other way."""
        probe_ids = []
        for each in parameters:
            self.celery.tasks[task].apply_async(kwargs=each, queue=queue or None)
            probe_ids.append(str(each.get("number")))
        return probe_ids

    def get_waiting_list(self, queue: str = "") -> str:
        """The list has the name of the queue."""
        return queue or self.queue

    def is_done(self) -> bool:
        """Nothing queued and nothing un-acknowledged."""
        return self.broker.llen(self.get_waiting_list()) == 0 and self.broker.hlen("unacked") == 0
