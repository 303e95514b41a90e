"""Notifier: wakes the relay after a commit, without making the caller wait for Redis."""

import queue
import threading
from collections.abc import Callable

import redis
import structlog

from jobworker.transport import keys
from jobworker.transport.client import connect_redis

logger = structlog.get_logger(__name__)

#: Timeout of a notification (s). The caller never waits for it.
_NOTIFY_TIMEOUT_SECONDS = 1.0

#: Pause after a failed notification (s): while Redis is away, submissions do not each find that out.
_RETRY_SECONDS = 1.0


class Notifier:
    """Notifies the relay from a thread of its own; notifications that are requested meanwhile become one.

    A lost notification delays the job by at most a second, until the relay's next poll. `revoke` runs before the
    notification if something was cancelled.
    """

    def __init__(self, redis_url: str, revoke: Callable[[redis.Redis], None] | None = None) -> None:
        self._client = connect_redis(redis_url, timeout=_NOTIFY_TIMEOUT_SECONDS)
        self._revoke = revoke
        self._cancelled = threading.Event()
        self._pending: queue.Queue[None] = queue.Queue(maxsize=1)
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        #: Ends a pause early.
        self._pause_over = threading.Event()

    def notify_soon(self, cancelled: bool = False) -> None:
        """Request a notification and return at once. `cancelled`: messages have to be revoked."""
        if cancelled:
            self._cancelled.set()
        self._ensure_thread()
        try:
            self._pending.put_nowait(None)
        except queue.Full:
            pass  # The notification that is pending serves both.

    def notify(self, cancelled: bool = False) -> bool:
        """Notify the relay and wait until Redis has it; return whether it has. For processes that end afterwards."""
        revokes = self._revoke is not None and (cancelled or self._cancelled.is_set())
        try:
            if self._revoke is not None and revokes:
                self._cancelled.clear()
                self._revoke(self._client)
                revokes = False
            self._client.xadd(keys.WAKE, {"new": "1"}, maxlen=1, approximate=False)
        except redis.RedisError as error:
            if revokes:
                self._cancelled.set()  # The next notification revokes.
            logger.debug("wake_lost", error=str(error))
            return False
        return True

    def _ensure_thread(self) -> None:
        # Started late: a server may fork after the application was made.
        if self._thread is None:
            with self._start_lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            self._pending.get()
            try:
                if not self.notify():
                    self._pause_over.wait(_RETRY_SECONDS)
            except Exception:  # The thread is started once; without it each submission starts up to a second later.
                logger.exception("wake_failed")
