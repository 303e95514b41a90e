"""One worker of each kind for all the tests that do not end it."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.integration.attempt_outcomes.message_driver import MessageDriver, run_message_driver
from tests.servers import ServerProcess


class WorkerKind(NamedTuple):
    """A kind of worker."""

    pool: str
    transport: str = "batched"

    @property
    def uses_processes(self) -> bool:
        """Whether jobs run in processes of their own, which can be killed."""
        return self.pool == "prefork"

    def __str__(self) -> str:
        return self.pool if self.transport == "batched" else f"{self.pool}-{self.transport}"


#: Each kind that is promised to work.
BATCHED_KINDS = [WorkerKind("prefork"), WorkerKind("threads"), WorkerKind("solo")]
KOMBU_KIND = WorkerKind("prefork", "stock")


class WorkerUnderTest(NamedTuple):
    """A post office with one worker."""

    driver: MessageDriver
    kind: WorkerKind
    worker: ServerProcess


@pytest.fixture(scope="package")
def worker_under_test(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerUnderTest]:
    """A post office with a worker of the kind that the test asks for (indirectly)."""
    kind: WorkerKind = request.param
    with run_message_driver(tmp_path_factory.mktemp(str(kind))) as post:
        yield WorkerUnderTest(post, kind, post.start_worker(kind.pool, JOBWORKER_TRANSPORT=kind.transport))
