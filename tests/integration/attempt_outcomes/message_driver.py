"""Messages put into Redis by hand, and what workers say about them: no relay, no database."""

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from jobworker.store.engine.database import Database
from jobworker.transport import keys
from jobworker.transport.claims import ClaimResult, Claims
from jobworker.transport.publisher import Message, Publisher, get_list_names
from jobworker.transport.worker_registry import WorkerRegistry
from tests.engine import LEASE_SECONDS, Engine
from tests.polling import until
from tests.servers import RedisServer, ServerProcess, run_server


class MessageDriver:
    """One Redis, the messages in it, and workers of all kinds."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.client: redis.Redis = server.create_client()
        database = f"sqlite:///{folder / 'unused.db'}"
        self.engine = Engine(folder, Database(database), database, server.url)
        self.control = Celery(broker=server.url, set_as_current=False).control
        self._publisher = Publisher(self.client)
        self._registry = WorkerRegistry(self.client, LEASE_SECONDS)

    # --- workers ----------------------------------------------------------------------------------------------

    def start_worker(self, pool: str, *options: str, **settings: str) -> ServerProcess:
        """Start a worker; wait until it is known."""
        before = self.list_workers()
        worker = self.engine.start_worker("--pool", pool, "--without-gossip", "--without-mingle", *options, **settings)

        def known() -> bool:
            worker.check_alive()
            return len(self.list_workers()) > len(before)

        until(known, what=f"the worker to be known; its log is {worker.log}")
        return worker

    def list_workers(self) -> set[str]:
        """The workers that are known."""
        known: Any = self.client.zrange(keys.WORKERS, 0, -1)
        return set(known)

    def wait_until_ended(self, *workers: ServerProcess) -> None:
        """Wait until the workers are gone, while somebody looks for silent ones as the relay does."""

        def gone() -> bool:
            self._registry.reap_silent_workers()
            return not any(worker.is_alive() for worker in workers)

        until(gone, what=f"the end of the workers; logs: {[worker.log for worker in workers]}")

    def reap_silent_workers(self) -> list[str]:
        """Look for silent workers, as the relay does every second."""
        return self._registry.reap_silent_workers()

    # --- messages ---------------------------------------------------------------------------------------------

    def publish(self, job: str, queue: str = "default", is_revoked: bool = False, **options: Any) -> str:
        """Publish attempt 1 of an execution; limits are options, everything else is a parameter."""
        message = _make_message(job, queue, options)
        if is_revoked:
            assert Claims(self.client).revoke([(message.execution, message.attempt)]) == [ClaimResult.REVOKED]
        self._publisher.publish([message])
        return message.execution

    def publish_changed(self, change: Callable[[dict[str, Any]], Any], job: str = "noop") -> str:
        """Publish a message that is changed on its way: `change` gets it as a dictionary."""
        message = _make_message(job, "default", {})
        envelope = json.loads(self._publisher._render(message))
        change(envelope)
        self.push_raw(json.dumps(envelope, separators=(",", ":")))
        return message.execution

    def push_raw(self, message: str | bytes, queue: str = "default") -> None:
        """Put something into the queue's list."""
        with self.client.pipeline() as pipe:
            pipe.lpush(queue, message)
            pipe.lpush(keys.READY.format(queue=queue), 1)
            pipe.execute()

    def count_queued(self, queue: str = "default") -> int:
        """How many messages are in the lists of a queue."""
        return sum(int(self.client.llen(name)) for name in get_list_names(queue))

    def list_in_flight(self) -> list[str]:
        """The messages that workers have in hand."""
        client: Any = self.client
        held: list[str] = client.hvals("unacked")  # Where kombu's own transport keeps them.
        for name in client.scan_iter(keys.INFLIGHT.format(worker="*")):
            held.extend(message for tag, message in client.hgetall(name).items() if tag.isdigit())
        return held

    def get_run_record(self, execution: str) -> tuple[int, str]:
        """(attempt, state) of the record in Redis."""
        attempt, state, *_ = str(self.client.get(keys.RUN.format(execution=execution))).split()
        return int(attempt), state

    # --- reports ----------------------------------------------------------------------------------------------

    def list_events(self, execution: str = "") -> list[tuple[str, dict[str, Any]]]:
        """(kind, data) of the reports about an execution, or about messages that belong to none."""
        entries: Any = self.client.xrange(keys.EVENTS)
        return [
            (fields["kind"], json.loads(fields["data"]))
            for _, fields in entries
            if fields["execution"] == execution and (execution or fields["kind"] != "due")
        ]

    def list_event_kinds(self, execution: str = "") -> list[str]:
        """Only the kinds."""
        return [kind for kind, _ in self.list_events(execution)]

    def wait_for_event(self, kind: str, execution: str = "") -> dict[str, Any]:
        """Wait for a report of this kind; its data."""

        def found() -> list[dict[str, Any]]:
            return [data for told, data in self.list_events(execution) if told == kind]

        what = f"{kind}; told: {self.list_events(execution)}; logs in {self.engine.folder}"
        return until(found, what=what)[0]

    def wait_until_empty(self, queue: str = "default") -> None:
        """Wait until no message is anywhere."""
        until(
            lambda: not self.count_queued(queue) and not self.list_in_flight(),
            what=f"no message; {self.list_in_flight()}",
        )

    def wait_until_reported(self, queue: str = "default") -> None:
        """Wait until whatever the worker had to say by now is said: a later job has ended."""
        self.wait_for_event("succeeded", self.publish("noop", queue))
        self.wait_until_empty(queue)

    def is_running(self, execution: str) -> bool:
        """Whether its first attempt has begun, by the diary."""
        return self.engine.is_running(execution)

    def get_attempt_pid(self, execution: str) -> int:
        """The process that runs its first attempt, by the diary."""
        lines = self.engine.activity_log.read_text().splitlines()
        [begun] = [line for line in lines if line.startswith(f"{execution} 1 start ")]
        return int(begun.split()[-1])

    def count_starts(self, execution: str) -> int:
        """How often its first attempt began, by the diary."""
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
    """A post office with a Redis of its own; its workers end with the block."""
    server = RedisServer(folder / "redis")
    with run_server(server):
        post = MessageDriver(folder, server)
        try:
            yield post
        finally:
            post.engine.stop()
            post.engine.database.dispose()
