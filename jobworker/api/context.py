"""What the endpoints work with: made once by `web.create_app`, found through the Flask application."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog
from flask import current_app

from jobworker.api.origins import OriginPolicy
from jobworker.clock import Clock
from jobworker.domain.errors import ConfigurationError, ServiceBusy, TooManyStreams
from jobworker.services.health import HealthChecker
from jobworker.settings import Settings
from jobworker.store import migrate
from jobworker.store.engine.database import Database
from jobworker.telemetry.metrics import Metrics
from jobworker.transport.notifier import Notifier

logger = structlog.get_logger(__name__)

#: Who the store says did it. Without accounts, whoever can reach the API is one and the same.
ACTOR = "api"

#: Each stream and each waiting request keeps one thread of the server busy. Together they must leave
#: threads for everybody else, so `jobworker web` starts with more threads than this.
MAX_STREAMS = 64
MAX_WAITING_REQUESTS = 16

#: So many requests at a time may have a body of more than 1 MiB: each may take some 100 MB while it is read.
MAX_LARGE_BODIES = 4

#: One client address may have so many streams: half of them, as behind a proxy all clients have one address.
MAX_STREAMS_PER_CLIENT = MAX_STREAMS // 2


class StreamLimiter:
    """The places for live streams, counted in all and by client address."""

    def __init__(self, maximum: int, maximum_per_client: int) -> None:
        self._maximum = maximum
        self._maximum_per_client = maximum_per_client
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def acquire(self, address: str) -> None:
        """Take a place; raises `TooManyStreams` if this client has enough, `Busy` if there is none."""
        with self._lock:
            if self._open[address] >= self._maximum_per_client:
                message = f"{address} has {self._maximum_per_client} live streams open, the most for one client; close one first"
                raise TooManyStreams(message)
            if self._open.total() >= self._maximum:
                raise ServiceBusy("too many live streams are open; try again soon, or read the execution instead")
            self._open[address] += 1

    def release(self, address: str) -> None:
        """Give a place back."""
        with self._lock:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]


@dataclass
class ApiContext:
    """The furniture of one web process."""

    settings: Settings
    database: Database
    clock: Clock
    notifier: Notifier
    metrics: Metrics
    health: HealthChecker
    origins: OriginPolicy
    streams: "StreamLimiter" = field(default_factory=lambda: StreamLimiter(MAX_STREAMS, MAX_STREAMS_PER_CLIENT))
    waiting_requests: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_WAITING_REQUESTS))
    large_body_slots: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_LARGE_BODIES))
    _is_schema_current: bool = False

    @contextlib.contextmanager
    def reserve_large_body(self) -> Iterator[None]:
        """Keep a place for a request with a large body; raises `Busy` if there is none."""
        if not self.large_body_slots.acquire(blocking=False):
            raise ServiceBusy(f"{MAX_LARGE_BODIES} large bodies are being worked off; send this one again soon")
        try:
            yield
        finally:
            self.large_body_slots.release()

    def notify_change(self) -> None:
        """Something was committed that the relay should look at."""
        self.notifier.notify_soon()

    def notify_cancellation(self) -> None:
        """Somebody wants something cancelled, and that is committed."""
        self.notifier.notify_soon(cancelled=True)

    def record_submissions(self, count: int) -> None:
        """So many executions were accepted and committed."""
        self.metrics.submissions.inc(count)
        self.notify_change()

    def check_schema(self) -> None:
        """Refuse work until the database has the schema of this code; asked until it has once."""
        if self._is_schema_current:
            return
        try:
            migrate.check_revision(self.database)
        except ConfigurationError as error:
            logger.error("database_unusable", detail=error.detail)
            raise ServiceBusy("the database cannot be used by this version at present; /readyz says why") from error
        self._is_schema_current = True


def get_context() -> ApiContext:
    """The room of the application that serves this request."""
    context: ApiContext = current_app.extensions["jobworker"]
    return context
