"""What the endpoints work with: made once by `web.create_app`, found through the Flask application."""

import threading
from dataclasses import dataclass, field

import structlog
from flask import current_app

from jobworker.clock import Clock
from jobworker.domain.errors import Busy, Misconfigured
from jobworker.services.health import Health
from jobworker.settings import Settings
from jobworker.store import migrate
from jobworker.store.database import Database
from jobworker.telemetry.metrics import Metrics
from jobworker.transport.wake import Waker

logger = structlog.get_logger(__name__)

#: Who the store says did it. Without accounts, whoever can reach the API is one and the same.
ACTOR = "api"

#: Each stream and each waiting request keeps one thread of the server busy. Together they must leave
#: threads for everybody else, so `jobworker web` starts with more threads than this.
MAX_STREAMS = 32
MAX_WAITING = 16


@dataclass
class Room:
    """The furniture of one web process."""

    settings: Settings
    database: Database
    clock: Clock
    waker: Waker
    metrics: Metrics
    health: Health
    streams: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_STREAMS))
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_WAITING))
    _schema_fits: bool = False

    def changed(self) -> None:
        """Something was committed that the relay should look at."""
        self.waker.wake()

    def cancelled(self) -> None:
        """Somebody wants something cancelled, and that is committed."""
        self.waker.wake(cancelled=True)

    def submitted(self, count: int) -> None:
        """So many executions were accepted and committed."""
        self.metrics.submissions.inc(count)
        self.changed()

    def require_schema(self) -> None:
        """Refuse work until the database has the schema of this code; asked until it has once."""
        if self._schema_fits:
            return
        try:
            migrate.check(self.database)
        except Misconfigured as error:
            logger.error("database_unusable", detail=error.detail)
            raise Busy("the database cannot be used by this version at present; /readyz says why") from error
        self._schema_fits = True


def room() -> Room:
    """The room of the application that serves this request."""
    found: Room = current_app.extensions["jobworker"]
    return found
