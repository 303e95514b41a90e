"""One worker of each kind for all the tests that do not end it."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.integration.endings.post import Post, post_office
from tests.servers import Process


class Kind(NamedTuple):
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
BATCHED = [Kind("prefork"), Kind("threads"), Kind("solo")]
STOCK = Kind("prefork", "stock")


class Office(NamedTuple):
    """A post office with one worker."""

    driver: Post
    kind: Kind
    worker: Process


@pytest.fixture(scope="package")
def office(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """A post office with a worker of the kind that the test asks for (indirectly)."""
    kind: Kind = request.param
    with post_office(tmp_path_factory.mktemp(str(kind))) as post:
        yield Office(post, kind, post.start_worker(kind.pool, JOBWORKER_TRANSPORT=kind.transport))
