"""The doorbell: tell the relay that SQL holds something new, without ever waiting for Redis."""

import queue
import threading
from collections.abc import Callable

import redis
import structlog

from jobworker.transport import keys
from jobworker.transport.client import connect_redis

logger = structlog.get_logger(__name__)

#: How long a ring may take (s). The caller never waits for it.
_NOTIFY_TIMEOUT_SECONDS = 1.0

#: After a ring that failed, the next waits so long (s): a hundred submissions a second need not each find
#: out that Redis is away.
_RETRY_SECONDS = 1.0


class Notifier:
    """Rings in a thread of its own. Rings that come while one is under way become one.

    A ring that gets lost costs the job at most the second after which the relay looks by itself. `revoke` is what
    is to be done in Redis first, when something was cancelled.
    """

    def __init__(self, redis_url: str, revoke: Callable[[redis.Redis], None] | None = None) -> None:
        self._client = connect_redis(redis_url, timeout=_NOTIFY_TIMEOUT_SECONDS)
        self._revoke = revoke
        self._cancelled = threading.Event()
        self._pending: queue.Queue[None] = queue.Queue(maxsize=1)
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._never_set = threading.Event()

    def notify_soon(self, cancelled: bool = False) -> None:
        """Ring soon; returns at once. `cancelled`: there is something to be revoked."""
        if cancelled:
            self._cancelled.set()
        self._ensure_thread()
        try:
            self._pending.put_nowait(None)
        except queue.Full:
            pass  # One is waiting to go out already; it will do for both.

    def notify(self, cancelled: bool = False) -> None:
        """Ring now, and wait for it as long as a ring may take: for a process that ends afterwards."""
        try:
            if self._revoke is not None and (cancelled or self._cancelled.is_set()):
                self._cancelled.clear()
                self._revoke(self._client)
            self._client.xadd(keys.WAKE, {"new": "1"}, maxlen=1, approximate=False)
        except redis.RedisError as error:
            logger.debug("wake_lost", error=str(error))

    def _ensure_thread(self) -> None:
        # Started late: a server may fork after the application was made.
        if self._thread is None:
            with self._start_lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="waker", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            self._pending.get()
            try:
                self.notify()
            except Exception:  # This thread is started once: without it each submission starts a second later.
                logger.exception("wake_failed")
