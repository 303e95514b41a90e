"""Shared objects of the endpoints: created once by `web.create_app` and stored in the Flask application."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog
from flask import current_app

from jobworker.api.host_check import OriginPolicy
from jobworker.clock import Clock
from jobworker.domain.errors import ConfigurationError, ServiceBusy, TooManyStreams
from jobworker.services.health import HealthChecker
from jobworker.settings import Settings
from jobworker.store import migrate
from jobworker.store.database.database import Database
from jobworker.telemetry.metrics import Metrics
from jobworker.transport.notifier import Notifier

logger = structlog.get_logger(__name__)

#: Actor recorded for changes over the API. There are no accounts, so all clients are one actor.
ACTOR = "api"

#: Maximum numbers of live streams and of waiting requests. Each occupies one thread of the server, and threads must
#: remain for other requests, so `jobworker web` starts more threads than the sum of both.
MAX_STREAMS = 64
MAX_WAITING_REQUESTS = 16

#: Maximum number of concurrent requests with a body of more than 1 MiB: reading each may take some 100 MB.
MAX_LARGE_BODIES = 4

#: Maximum number of streams of one client address: half of all, because behind a proxy all clients share one address.
MAX_STREAMS_PER_CLIENT = MAX_STREAMS // 2


class StreamLimiter:
    """Limit of open live streams, in total and by client address."""

    def __init__(self, maximum: int, maximum_per_client: int) -> None:
        self._maximum = maximum
        self._maximum_per_client = maximum_per_client
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def acquire(self, address: str) -> None:
        """Count a stream as open; raises `TooManyStreams` at the client's limit, `ServiceBusy` at the total limit."""
        with self._lock:
            if self._open[address] >= self._maximum_per_client:
                message = (
                    f"{address} has {self._maximum_per_client} live streams open, the maximum per client; close one"
                )
                raise TooManyStreams(message)
            if self._open.total() >= self._maximum:
                raise ServiceBusy("too many live streams are open; try again soon, or read the execution instead")
            self._open[address] += 1

    def release(self, address: str) -> None:
        """Count a stream as closed."""
        with self._lock:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]


@dataclass
class ApiContext:
    """Shared objects of one web process."""

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
        """Reserve one of the slots for requests with large bodies; raises `ServiceBusy` if none is free."""
        if not self.large_body_slots.acquire(blocking=False):
            raise ServiceBusy(f"{MAX_LARGE_BODIES} large bodies are being processed; send this request again soon")
        try:
            yield
        finally:
            self.large_body_slots.release()

    def notify_change(self) -> None:
        """Wake the relay after a committed change."""
        self.notifier.notify_soon()

    def notify_cancellation(self) -> None:
        """Wake the relay after a committed cancellation request."""
        self.notifier.notify_soon(cancelled=True)

    def record_submissions(self, count: int) -> None:
        """Count `count` accepted and committed executions in the metrics and wake the relay."""
        self.metrics.submissions.inc(count)
        self.notify_change()

    def check_schema(self) -> None:
        """Raise `ServiceBusy` until the database has the schema of this code; checked until it succeeds once."""
        if self._is_schema_current:
            return
        try:
            migrate.check_revision(self.database)
        except ConfigurationError as error:
            logger.error("database_unusable", detail=error.detail)
            raise ServiceBusy("this version cannot use the database at present; /readyz shows the reason") from error
        self._is_schema_current = True


def get_context() -> ApiContext:
    """Return the context of the application that serves this request."""
    context: ApiContext = current_app.extensions["jobworker"]
    return context
