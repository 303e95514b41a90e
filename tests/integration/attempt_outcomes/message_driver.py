"""Driver that pushes messages into Redis by hand and reads the reports of workers: no relay, no database."""

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from jobworker.store.database.database import Database
from jobworker.transport import keys
from jobworker.transport.claims import ClaimResult, Claims
from jobworker.transport.publisher import Message, Publisher, get_list_names
from jobworker.transport.worker_registry import WorkerRegistry
from tests.engine import LEASE_SECONDS, Engine
from tests.polling import wait_until
from tests.servers import RedisServer, ServerProcess, run_server


class MessageDriver:
    """Redis with messages, and workers of all kinds."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.client: redis.Redis = server.create_client()
        database = f"sqlite:///{folder / 'unused.db'}"
        self.engine = Engine(folder, Database(database), database, server.url)
        self.control = Celery(broker=server.url, set_as_current=False).control
        self._publisher = Publisher(self.client)
        self._registry = WorkerRegistry(self.client, LEASE_SECONDS)

    # --- workers ----------------------------------------------------------------------------------------------

    def start_worker(self, pool: str, *options: str, **settings: str) -> ServerProcess:
        """Start a worker and wait until it is registered."""
        before = self.list_workers()
        worker = self.engine.start_worker("--pool", pool, "--without-gossip", "--without-mingle", *options, **settings)

        def known() -> bool:
            worker.check_alive()
            return len(self.list_workers()) > len(before)

        wait_until(known, what=f"the worker to be known; its log is {worker.log}")
        return worker

    def list_workers(self) -> set[str]:
        """Return the ids of the registered workers."""
        worker_ids: Any = self.client.zrange(keys.WORKERS, 0, -1)
        return set(worker_ids)

    def wait_until_ended(self, *workers: ServerProcess) -> None:
        """Wait until the workers have ended, while silent workers are reaped as the relay does."""

        def gone() -> bool:
            self._registry.reap_silent_workers()
            return not any(worker.is_alive() for worker in workers)

        wait_until(gone, what=f"the end of the workers; logs: {[worker.log for worker in workers]}")

    def reap_silent_workers(self) -> list[str]:
        """Reap silent workers, as the relay does every second."""
        return self._registry.reap_silent_workers()

    # --- messages ---------------------------------------------------------------------------------------------

    def publish(self, job: str, queue: str = "default", is_revoked: bool = False, **options: Any) -> str:
        """Publish attempt 1 of an execution; limits are options, all other keywords are parameters."""
        message = _make_message(job, queue, options)
        if is_revoked:
            assert Claims(self.client).revoke([(message.execution, message.attempt)]) == [ClaimResult.REVOKED]
        self._publisher.publish([message])
        return message.execution

    def publish_changed(self, change: Callable[[dict[str, Any]], Any], job: str = "noop") -> str:
        """Publish a message that `change` modifies: `change` gets the message as a dictionary."""
        message = _make_message(job, "default", {})
        envelope = json.loads(self._publisher._render(message))
        change(envelope)
        self.push_raw(json.dumps(envelope, separators=(",", ":")))
        return message.execution

    def push_raw(self, message: str | bytes, queue: str = "default") -> None:
        """Push a raw message to the list of a queue."""
        with self.client.pipeline() as pipe:
            pipe.lpush(queue, message)
            pipe.lpush(keys.READY.format(queue=queue), 1)
            pipe.execute()

    def count_queued(self, queue: str = "default") -> int:
        """Return the number of messages in the lists of a queue."""
        return sum(int(self.client.llen(name)) for name in get_list_names(queue))

    def list_in_flight(self) -> list[str]:
        """Return the messages that workers have in flight."""
        client: Any = self.client
        held: list[str] = client.hvals("unacked")  # Hash of kombu's own transport.
        for name in client.scan_iter(keys.INFLIGHT.format(worker="*")):
            held.extend(message for tag, message in client.hgetall(name).items() if tag.isdigit())
        return held

    def get_run_record(self, execution: str) -> tuple[int, str]:
        """Return (attempt, state) of the run record in Redis."""
        attempt, state, *_ = str(self.client.get(keys.RUN.format(execution=execution))).split()
        return int(attempt), state

    # --- reports ----------------------------------------------------------------------------------------------

    def list_events(self, execution: str = "") -> list[tuple[str, dict[str, Any]]]:
        """Return (kind, data) of the reports about an execution, or about messages without an execution."""
        entries: Any = self.client.xrange(keys.EVENTS)
        return [
            (fields["kind"], json.loads(fields["data"]))
            for _, fields in entries
            if fields["execution"] == execution and (execution or fields["kind"] != "due")
        ]

    def list_event_kinds(self, execution: str = "") -> list[str]:
        """Return the kinds of the reports about an execution."""
        return [kind for kind, _ in self.list_events(execution)]

    def wait_for_event(self, kind: str, execution: str = "") -> dict[str, Any]:
        """Wait for a report of this kind and return its data."""

        def found() -> list[dict[str, Any]]:
            return [data for event_kind, data in self.list_events(execution) if event_kind == kind]

        description = f"{kind}; told: {self.list_events(execution)}; logs in {self.engine.folder}"
        return wait_until(found, what=description)[0]

    def wait_until_empty(self, queue: str = "default") -> None:
        """Wait until no message is queued or in flight."""
        wait_until(
            lambda: not self.count_queued(queue) and not self.list_in_flight(),
            what=f"no message; {self.list_in_flight()}",
        )

    def wait_until_reported(self, queue: str = "default") -> None:
        """Wait until the worker has sent all earlier reports: a later job has ended."""
        self.wait_for_event("succeeded", self.publish("noop", queue))
        self.wait_until_empty(queue)

    def is_running(self, execution: str) -> bool:
        """Return whether the first attempt has begun, according to the job's own records."""
        return self.engine.is_running(execution)

    def get_attempt_pid(self, execution: str) -> int:
        """Return the id of the process that runs the first attempt, according to the job's own records."""
        lines = self.engine.activity_log.read_text().splitlines()
        [begun] = [line for line in lines if line.startswith(f"{execution} 1 start ")]
        return int(begun.split()[-1])

    def count_starts(self, execution: str) -> int:
        """Return the number of starts of the first attempt, according to the job's own records."""
        return self.engine.count_starts()[execution, 1]


def _make_message(job: str, queue: str, options: dict[str, Any]) -> Message:
    own = {name: options.pop(name, None) for name in ("time_limit", "soft_time_limit", "max_attempts")}
    execution = str(uuid.uuid4())
    return Message(
        execution=execution, attempt=1, job=job, revision=1, task=job, queue=queue, priority=5, parameters=options,
        retries=0, correlation_id="c", scheduled_for=None, **own,
    )  # fmt: skip


@contextlib.contextmanager
def run_message_driver(folder: Path) -> Iterator[MessageDriver]:
    """Yield a message driver with its own Redis; end its workers afterwards."""
    server = RedisServer(folder / "redis")
    with run_server(server):
        driver = MessageDriver(folder, server)
        try:
            yield driver
        finally:
            driver.engine.stop()
            driver.engine.database.dispose()
