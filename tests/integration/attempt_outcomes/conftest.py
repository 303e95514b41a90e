"""Workers, one of each kind, shared by all tests that do not end it."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.integration.attempt_outcomes.message_driver import MessageDriver, run_message_driver
from tests.servers import ServerProcess


class WorkerKind(NamedTuple):
    """Kind of a worker: pool, transport and variant."""

    pool: str
    transport: str = "batched"

    @property
    def uses_processes(self) -> bool:
        """Use of separate processes for jobs, which can be killed."""
        return self.pool == "prefork"

    def __str__(self) -> str:
        return self.pool if self.transport == "batched" else f"{self.pool}-{self.transport}"


#: Kinds of workers that are supported.
BATCHED_KINDS = [WorkerKind("prefork"), WorkerKind("threads"), WorkerKind("solo")]
KOMBU_KIND = WorkerKind("prefork", "stock")


class WorkerUnderTest(NamedTuple):
    """Message driver with one worker."""

    driver: MessageDriver
    kind: WorkerKind
    worker: ServerProcess


@pytest.fixture(scope="package")
def worker_under_test(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerUnderTest]:
    """Message driver with a worker of the kind that the test selects (indirectly)."""
    kind: WorkerKind = request.param
    with run_message_driver(tmp_path_factory.mktemp(str(kind))) as driver:
        yield WorkerUnderTest(driver, kind, driver.start_worker(kind.pool, JOBWORKER_TRANSPORT=kind.transport))
