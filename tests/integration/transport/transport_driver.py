"""Redis and workers, without a relay and without a database: what the transport does by itself."""

import json
from collections.abc import Callable
from typing import Any

import redis
from celery import Celery

from jobworker.domain.ids import IdFactory
from jobworker.transport import keys
from jobworker.transport.publisher import Message, Publisher, get_list_names
from jobworker.transport.worker_registry import WorkerRegistry
from tests.engine import LEASE_SECONDS, Engine
from tests.polling import until
from tests.servers import RedisServer, ServerProcess

#: One worker's messages in flight: tag → message.
InFlightMessages = dict[str, str]


class TransportDriver:
    """Publishes like the relay does, and looks into Redis."""

    def __init__(self, engine: Engine, server: RedisServer) -> None:
        self.engine = engine
        self.server = server
        self.client: redis.Redis = server.create_client()
        self._publisher = Publisher(self.client)
        self._ids = IdFactory()

    # --- workers ----------------------------------------------------------------------------------------------

    def start_worker(self, *options: str, wait: bool = True, **settings: str) -> ServerProcess:
        """Start a worker with two slots (unless `options` say otherwise), and wait until it consumes."""
        worker = self.engine.start_worker("--without-mingle", *options, **settings)
        if wait:
            self.wait_until_ready(worker)
        return worker

    def wait_until_ready(self, *workers: ServerProcess) -> None:
        """Wait until the workers consume."""
        for worker in workers:
            until(
                lambda worker=worker: " ready." in self.engine.read_log(worker) or not worker.is_alive(),  # type: ignore[misc]
                what=f"a worker to be ready; its log is {worker.log}",
            )
            worker.check_alive()

    def get_worker_id(self, worker: ServerProcess) -> str:
        """The name under which Redis knows a worker."""
        return next(name for name in self.list_workers() if f":{worker.pid}:" in name)

    def list_workers(self) -> list[str]:
        """The workers that Redis knows."""
        known: Any = self.client.zrange(keys.WORKERS, 0, -1)
        return list(known)

    def close_connections(self) -> None:
        """Close every connection to Redis but ours."""
        for kind in ("normal", "pubsub"):
            self.client.client_kill_filter(_type=kind, skipme=True)

    def send_control(
        self, command: str, *arguments: Any, destination: ServerProcess | None = None, **options: Any
    ) -> Any:
        """Use one of Celery's remote control commands, and wait for the answers (there is none to `shutdown`)."""
        to = [self.get_worker_id(destination).rsplit(":", 2)[0]] if destination else None
        with Celery(broker=self.server.url, set_as_current=False) as app:
            answers = {"reply": command != "shutdown", "timeout": 10, "limit": 1 if to else len(self.list_workers())}
            return getattr(app.control, command)(*arguments, destination=to, **answers, **options)

    def inspect_workers(self, what: str) -> Any:
        """What the workers answer to one of Celery's questions, by their names."""
        with Celery(broker=self.server.url, set_as_current=False) as app:
            return getattr(app.control.inspect(timeout=10, limit=len(self.list_workers())), what)()

    # --- messages ---------------------------------------------------------------------------------------------

    def publish(
        self, job: str = "noop", count: int = 1, *, queue: str = "default", priority: int = 5, **parameters: Any
    ) -> list[str]:
        """Publish first attempts of `count` executions; answers their ids."""
        return self.publish_messages(
            [self.make_message(job, queue=queue, priority=priority, **parameters) for _ in range(count)]
        )

    def publish_messages(self, messages: list[Message]) -> list[str]:
        """Publish messages at once; answers the ids of their executions."""
        self._publisher.publish(messages)
        return [message.execution for message in messages]

    def make_message(
        self, job: str = "noop", *, queue: str = "default", priority: int = 5, **parameters: Any
    ) -> Message:
        """A first attempt, not yet published."""
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
        """How many messages stand in the queues."""
        return sum(self.client.llen(name) for queue in queues or ("default",) for name in get_list_names(queue))

    def list_in_flight(self) -> dict[str, InFlightMessages]:
        """The messages that each worker has taken and not acknowledged."""
        prefix = keys.INFLIGHT.format(worker="")
        names: list[str] = list(self.client.scan_iter(match=prefix + "*", count=1000))
        held: dict[str, Any] = {name.removeprefix(prefix): self.client.hgetall(name) for name in names}
        return {worker: {tag: text for tag, text in flight.items() if tag.isdigit()} for worker, flight in held.items()}

    def is_empty(self) -> bool:
        """Whether no message is left anywhere."""
        return self.count_queued("critical", "default", "background") == 0 and not any(self.list_in_flight().values())

    # --- reports ----------------------------------------------------------------------------------------------

    def list_events(self) -> list[tuple[str, str, int]]:
        """(kind, execution, attempt) of every report, in order."""
        entries: Any = self.client.xrange(keys.EVENTS)
        return [(fields["kind"], fields["execution"], int(fields["attempt"])) for _, fields in entries]

    def list_event_kinds(self, execution: str) -> list[str]:
        """What was told about an execution, in order."""
        return [kind for kind, about, _ in self.list_events() if about == execution]

    def list_event_data(self, kind: str) -> list[dict[str, Any]]:
        """The data of every report of a kind."""
        entries: Any = self.client.xrange(keys.EVENTS)
        return [json.loads(fields["data"]) for _, fields in entries if fields["kind"] == kind]

    def expect_only_done(self, executions: list[str], within: float = 60.0) -> None:
        """The same, and no message of any other is left."""
        self.expect_done(executions, within)
        until(self.is_empty, what="every message to be acknowledged")

    def expect_done(self, executions: list[str], within: float = 60.0) -> None:
        """Wait until all have ended; each has begun and ended once, by diary and reports."""
        wanted = set(executions)
        until(
            lambda: wanted <= {execution for kind, execution, _ in self.list_events() if kind == "succeeded"},
            within,
            every=0.1,
            what=f"everything to end; logs in {self.engine.folder}",
        )
        starts, ends, told = self.engine.count_starts(), self.engine.count_ends(), self.list_events()
        assert {key: starts[key, 1] for key in wanted if starts[key, 1] != 1} == {}
        assert {key: ends[key, 1] for key in wanted if ends[key, 1] != 1} == {}
        for kind in ("running", "succeeded"):
            about = [execution for one, execution, _ in told if one == kind and execution in wanted]
            assert len(about) == len(set(about)) == len(wanted), kind

    def reap_silent_workers(self) -> list[str]:
        """Look for silent workers once, as the relay does every second."""
        return WorkerRegistry(self.client, LEASE_SECONDS).reap_silent_workers()

    def close(self) -> None:
        """Let go of Redis."""
        self.client.close()


def make_running_check(driver: TransportDriver, executions: list[str]) -> Callable[[], bool]:
    """Whether all of them are running."""
    return lambda: all(driver.engine.is_running(execution) for execution in executions)
