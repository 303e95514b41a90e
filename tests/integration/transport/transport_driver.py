"""Driver for the transport alone: Redis and workers, without a relay and without a database."""

import json
from collections.abc import Callable
from typing import Any

import redis
from celery import Celery

from jobworker.domain.ids import IdFactory
from jobworker.transport import keys
from jobworker.transport.publisher import Message, Publisher, get_list_names
from jobworker.transport.worker_registry import WorkerRegistry
from tests.polling import wait_until
from tests.servers import RedisServer, ServerProcess
from tests.system_driver import LEASE_SECONDS, SystemDriver

#: Messages in flight of one worker: tag → message.
InFlightMessages = dict[str, str]


class TransportDriver:
    """Driver that publishes as the relay does, and reads from Redis."""

    def __init__(self, engine: SystemDriver, server: RedisServer) -> None:
        self.engine = engine
        self.server = server
        self.client: redis.Redis = server.create_client()
        self._publisher = Publisher(self.client)
        self._ids = IdFactory()

    # --- workers ----------------------------------------------------------------------------------------------

    def start_worker(self, *options: str, wait: bool = True, **settings: str) -> ServerProcess:
        """Start a worker with two slots (unless `options` override them), and wait until it consumes."""
        worker = self.engine.start_worker(*options, **settings)
        if wait:
            self.wait_until_ready(worker)
        return worker

    def wait_until_ready(self, *workers: ServerProcess) -> None:
        """Wait until the workers consume."""
        for worker in workers:
            wait_until(
                lambda worker=worker: " ready." in self.engine.read_log(worker) or not worker.is_alive(),  # type: ignore[misc]
                what=f"a worker to be ready; its log is {worker.log}",
            )
            worker.check_alive()

    def get_worker_id(self, worker: ServerProcess) -> str:
        """Return the id of a worker in Redis."""
        return next(name for name in self.list_workers() if f":{worker.pid}:" in name)

    def list_workers(self) -> list[str]:
        """Return the ids of the registered workers."""
        worker_ids: Any = self.client.zrange(keys.WORKERS, 0, -1)
        return list(worker_ids)

    def close_connections(self) -> None:
        """Close every connection to Redis except that of the driver."""
        for kind in ("normal", "pubsub"):
            self.client.client_kill_filter(_type=kind, skipme=True)

    def send_control(
        self, command: str, *arguments: Any, destination: ServerProcess | None = None, **options: Any
    ) -> Any:
        """Send one of Celery's remote control commands and return the answers (`shutdown` has no answer)."""
        to = [self.get_worker_id(destination).rsplit(":", 2)[0]] if destination else None
        with Celery(broker=self.server.url, set_as_current=False) as app:
            answers = {"reply": command != "shutdown", "timeout": 10, "limit": 1 if to else len(self.list_workers())}
            return getattr(app.control, command)(*arguments, destination=to, **answers, **options)

    def inspect_workers(self, command: str) -> Any:
        """Return the answers of the workers to one of Celery's inspect commands, by worker."""
        with Celery(broker=self.server.url, set_as_current=False) as app:
            return getattr(app.control.inspect(timeout=10, limit=len(self.list_workers())), command)()

    # --- messages ---------------------------------------------------------------------------------------------

    def publish(
        self, job: str = "noop", count: int = 1, *, queue: str = "default", priority: int = 5, **parameters: Any
    ) -> list[str]:
        """Publish first attempts of `count` executions and return their ids."""
        return self.publish_messages(
            [self.make_message(job, queue=queue, priority=priority, **parameters) for _ in range(count)]
        )

    def publish_messages(self, messages: list[Message]) -> list[str]:
        """Publish messages at once and return the ids of their executions."""
        self._publisher.publish(messages)
        return [message.execution for message in messages]

    def make_message(
        self, job: str = "noop", *, queue: str = "default", priority: int = 5, **parameters: Any
    ) -> Message:
        """Return an unpublished first attempt."""
        return Message(
            execution=self._ids.create_id(int(self.engine.clock.now().timestamp() * 1000)),
            attempt=1,
            job=job,
            revision=1,
            task=job,
            queue=queue,
            priority=priority,
            parameters=parameters,
            retries=0,
            max_attempts=None,
            time_limit=None,
            soft_time_limit=None,
            correlation_id="test",
            scheduled_for=None,
        )

    def count_queued(self, *queues: str) -> int:
        """Return the number of messages in the queues."""
        return sum(self.client.llen(name) for queue in queues or ("default",) for name in get_list_names(queue))

    def list_in_flight(self) -> dict[str, InFlightMessages]:
        """Return the messages that each worker has in flight."""
        prefix = keys.INFLIGHT.format(worker="")
        names: list[str] = list(self.client.scan_iter(match=prefix + "*", count=1000))
        held: dict[str, Any] = {name.removeprefix(prefix): self.client.hgetall(name) for name in names}
        return {worker: {tag: text for tag, text in flight.items() if tag.isdigit()} for worker, flight in held.items()}

    def is_empty(self) -> bool:
        """Return whether no message is queued or in flight."""
        return self.count_queued("critical", "default", "background") == 0 and not any(self.list_in_flight().values())

    # --- reports ----------------------------------------------------------------------------------------------

    def list_events(self) -> list[tuple[str, str, int]]:
        """Return (kind, execution, attempt) of every report, in order."""
        entries: Any = self.client.xrange(keys.EVENTS)
        return [(fields["kind"], fields["execution"], int(fields["attempt"])) for _, fields in entries]

    def list_event_kinds(self, execution: str) -> list[str]:
        """Return the kinds of the reports about an execution, in order."""
        return [kind for kind, about, _ in self.list_events() if about == execution]

    def list_event_data(self, kind: str) -> list[dict[str, Any]]:
        """Return the data of every report of a kind."""
        entries: Any = self.client.xrange(keys.EVENTS)
        return [json.loads(fields["data"]) for _, fields in entries if fields["kind"] == kind]

    def expect_only_done(self, executions: list[str], within: float = 60.0) -> None:
        """Wait until all these executions have ended once, and no other message is left."""
        self.expect_done(executions, within)
        wait_until(self.is_empty, what="every message to be acknowledged")

    def expect_done(self, executions: list[str], within: float = 60.0) -> None:
        """Wait until all have ended; check that each began and ended once, by the jobs' records and by reports."""
        expected = set(executions)
        wait_until(
            lambda: expected <= {execution for kind, execution, _ in self.list_events() if kind == "succeeded"},
            within,
            every=0.1,
            what=f"everything to end; logs in {self.engine.folder}",
        )
        starts, ends, events = self.engine.count_starts(), self.engine.count_ends(), self.list_events()
        assert {key: starts[key, 1] for key in expected if starts[key, 1] != 1} == {}
        assert {key: ends[key, 1] for key in expected if ends[key, 1] != 1} == {}
        for kind in ("running", "succeeded"):
            about = [execution for event_kind, execution, _ in events if event_kind == kind and execution in expected]
            assert len(about) == len(set(about)) == len(expected), kind

    def reap_silent_workers(self) -> list[str]:
        """Reap silent workers once, as the relay does every second."""
        return WorkerRegistry(self.client, LEASE_SECONDS).reap_silent_workers()

    def close(self) -> None:
        """Close the client."""
        self.client.close()


def make_running_check(driver: TransportDriver, executions: list[str]) -> Callable[[], bool]:
    """Return a function that returns whether all these executions are running."""
    return lambda: all(driver.engine.is_running(execution) for execution in executions)
