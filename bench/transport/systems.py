"""Compared systems: a Redis with workers of JobWorker or of stock Celery, without relay and database.

Each system is started for one measurement and killed afterwards, so that it does not disturb others.
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

#: Options of Celery workers.
PREFORK = ("--concurrency", "2")
THREADS = ("--pool", "threads", "--concurrency", "8")

_STAGED_QUEUE = "staged"
_BATCH_SIZE = 500


class TransportSystem(Harness, abc.ABC):
    """Interface of a compared system."""

    #: Argument of `celery -A`, and queue of the workers.
    app: str
    queue: str

    #: Environment of the processes.
    environment: dict[str, str]

    def start(self) -> None:
        """Start Redis only; workers are started on request."""
        self.broker = self.start_redis("redis")
        self._control = Celery("control", broker=get_redis_url(self.broker), set_as_current=False).control

    def start_worker(self, name: str = "worker", options: Sequence[str] = PREFORK) -> None:
        """Start a worker and wait until it is ready."""
        command = ["-m", "celery", "-A", self.app, "worker", "--loglevel", "WARNING", "-n", f"{name}@bench", *options]
        self.start_python(name, command, **self.environment)
        wait_until(lambda: self._is_worker_ready(f"{name}@bench"), what=f"worker {name}")

    @abc.abstractmethod
    def publish(self, task: str, parameters: Iterable[Mapping[str, Any]], queue: str = "") -> list[str]:
        """Send a message for each item of `parameters`, by default to the workers' queue; return their probe ids."""

    @abc.abstractmethod
    def get_waiting_list(self, queue: str = "") -> str:
        """Return the Redis list in which published messages wait."""

    def stage(self, task: str, count: int) -> None:
        """Publish messages to a queue without workers."""
        self.publish(task, ({"number": number} for number in range(count)), _STAGED_QUEUE)

    def release_staged(self) -> None:
        """Move all staged messages to the workers' queue at once, so that publishing is not measured."""
        self.broker.rename(self.get_waiting_list(_STAGED_QUEUE), self.get_waiting_list())

    @abc.abstractmethod
    def is_done(self) -> bool:
        """Return whether no message is queued or in flight and all reports are sent."""

    def _is_worker_ready(self, hostname: str) -> bool:
        return bool(self._control.ping(destination=[hostname], timeout=1, limit=1))


class JobWorkerTransport(TransportSystem):
    """JobWorker's workers, whose reports are not consumed."""

    app = "jobworker"
    queue = DEFAULT_QUEUE

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._extra_environment = environment
        self._ids = IdFactory()
        self._published = 0

    def start(self) -> None:
        """Start Redis and create its publisher."""
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
        """Publish messages with the relay's publisher, in batches."""
        messages = [
            self._make_message(task, message_parameters, queue or self.queue) for message_parameters in parameters
        ]
        for first in range(0, len(messages), _BATCH_SIZE):
            self._publisher.publish(messages[first : first + _BATCH_SIZE])
        self._published += len(messages)
        return [message.execution for message in messages]

    def get_waiting_list(self, queue: str = "") -> str:
        """Return the list of the queue with the default priority."""
        return get_list_name(queue or self.queue, DEFAULT_PRIORITY)

    def _make_message(self, task: str, parameters: Mapping[str, Any], queue: str) -> Message:
        # The message of a first attempt, as the relay creates it from a row.
        return Message(
            execution=self._ids.create_id(time.time_ns() // 1_000_000), attempt=1, job=task, revision=1, task=task,
            queue=queue, priority=DEFAULT_PRIORITY, parameters=parameters, retries=0, max_attempts=1,
            time_limit=None, soft_time_limit=None, correlation_id="bench", scheduled_for=None,
        )  # fmt: skip

    def release_staged(self) -> None:
        """Move the staged messages and send the wake-up token of a publication."""
        super().release_staged()
        self.broker.lpush(keys.READY.format(queue=self.queue), 1)

    def is_done(self) -> bool:
        """Return whether no message is queued or in flight, and the stream has the start and end of each execution."""
        return self.broker.xlen(keys.EVENTS) >= 2 * self._published and self.is_drained()

    def is_drained(self) -> bool:
        """Return whether no message is queued or in flight."""
        if self.broker.llen(self.get_waiting_list()):
            return False
        client: Any = self.broker
        held = (client.hkeys(keys.INFLIGHT.format(worker=worker)) for worker in self.list_worker_ids())
        # Fields of messages are numbers; the worker uses other fields for its own data.
        return not any(tag.isdecimal() for tags in held for tag in tags)

    def list_worker_ids(self) -> list[str]:
        """Return the ids of the live workers."""
        worker_ids: Any = self.broker.zrange(keys.WORKERS, 0, -1)
        return list(worker_ids)

    def read_events(self) -> Iterable[Mapping[str, str]]:
        """Yield all reported events in order."""
        client: Any = self.broker
        last = "-"
        while page := client.xrange(keys.EVENTS, min=last, count=1000):
            yield from (fields for _, fields in page)
            last = f"({page[-1][0]}"


class CeleryTransport(TransportSystem):
    """Workers of stock Celery."""

    app = "bench.transport.baseline"
    queue = baseline.QUEUE

    def __init__(self, folder: Path, environment: Mapping[str, str], visibility: str | None = None) -> None:
        super().__init__(folder)
        self._extra_environment = {**environment, **({"BENCH_VISIBILITY": visibility} if visibility else {})}

    def start(self) -> None:
        """Start Redis and create the app that publishes."""
        super().start()
        self.environment = {"BENCH_BROKER": get_redis_url(self.broker), **self._extra_environment}
        self.celery = baseline.make_app(get_redis_url(self.broker))

    def publish(self, task: str, parameters: Iterable[Mapping[str, Any]], queue: str = "") -> list[str]:
        """Publish messages with `apply_async`, one by one because Celery has no batches."""
        probe_ids = []
        for message_parameters in parameters:
            self.celery.tasks[task].apply_async(kwargs=message_parameters, queue=queue or None)
            probe_ids.append(str(message_parameters.get("number")))
        return probe_ids

    def get_waiting_list(self, queue: str = "") -> str:
        """Return the list, which has the name of the queue."""
        return queue or self.queue

    def is_done(self) -> bool:
        """Return whether no message is queued or unacknowledged."""
        return self.broker.llen(self.get_waiting_list()) == 0 and self.broker.hlen("unacked") == 0
