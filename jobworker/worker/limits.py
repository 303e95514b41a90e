"""Keeps the time limits of attempts that run in processes of the pool, and stops those that have to stop.

The event loop looks after all of them at once: whose soft limit has passed, whose hard limit, who was cancelled and
runs on. To stop an attempt is to send SIGTERM to its process and all that descends from it, and SIGKILL a little
later. It has ended when its process has; whatever the job says after SIGTERM counts no more.
"""

import contextlib
import os
import signal
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from jobworker.clock import Clock
from jobworker.worker import processes
from jobworker.worker.desk import Desk
from jobworker.worker.processes import Member

logger = structlog.get_logger(__name__)

#: A job that is told of its cancellation has so long (s) to end by itself.
PATIENCE = 3.0

#: After SIGTERM a process has so long (s) to clean up.
GRACE = 2.0

#: The event loop looks at least so often (s) while there is something to look after.
_LONGEST_PAUSE = 1.0

_NEVER = float("inf")


class Attempt(Protocol):
    """What is to be known of an attempt. `token` is None for a plain Celery task; limits are in seconds.

    `patience` is how long (s) it may take to end by itself once it is told that it is cancelled.
    """

    worker_pid: int
    token: str | None
    hard: float | None
    soft: float | None
    cancel_timeout: float

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A limit has passed."""
        ...


@dataclass(slots=True)
class Stop:
    """Why an attempt has to stop, and what has been done about it.

    `limit`: the hard limit (s) that passed; else `by` wants it cancelled. `signal`: the last one that was sent.
    """

    limit: float | None
    requested_by: str
    term_at: float
    kill_at: float
    signal: str = ""
    members: set[Member] = field(default_factory=set)


@dataclass(slots=True)
class Watched:
    """One attempt, the process that runs it, and since when. `struck`: the extension at its last soft limit."""

    attempt: Attempt
    process: Any
    started_at: float
    extension_at_soft_limit: float = -1.0
    stop: Stop | None = None


class Limits:
    """The attempts that somebody has to look after, by the process that runs each."""

    def __init__(self, desk: Desk, clock: Clock) -> None:
        self._control_table = desk
        self._clock = clock
        self._timers: dict[int, Watched] = {}
        self._loop: Any = None
        self._pool: Any = None
        self._next_check_at = _NEVER

    def attach_to_loop(self, loop: Any, pool: Any) -> None:
        """Work with this event loop and this pool (billiard's) from now on. Again after each reconnection."""
        self._loop, self._pool = loop, pool
        self._next_check_at = _NEVER
        if self._timers:
            self._check_all()

    def watch_attempt(self, attempt: Attempt, since: float) -> None:
        """An attempt with limits has begun, `since` then (monotonic seconds)."""
        if watched := self._add_timer(attempt, since):
            self._schedule_check(self._compute_due(watched))

    def stop_attempt(self, attempt: Attempt, by: str) -> None:
        """Somebody wants this attempt stopped: first by itself, then by force. Again changes nothing."""
        now = self._clock.monotonic()
        watched = self._timers.get(attempt.worker_pid) or self._add_timer(attempt, now)
        if watched is None or watched.stop is not None:
            return
        if attempt.token is not None:
            self._control_table.mark_cancelled(attempt.token, watched.process.index)
        watched.stop = Stop(None, by, now + attempt.cancel_timeout, now + attempt.cancel_timeout + GRACE)
        self._schedule_check(watched.stop.term_at)

    def finish_attempt(self, attempt: Attempt) -> Stop | None:
        """The attempt has ended. How it was stopped, if it was by force; nothing that it started is left then."""
        watched = self._timers.get(attempt.worker_pid)
        if watched is None or watched.attempt is not attempt:
            return None
        del self._timers[attempt.worker_pid]
        if watched.stop is None or not watched.stop.signal:
            return None
        processes.kill(attempt.worker_pid, watched.stop.members)
        return watched.stop

    # --- by the event loop ------------------------------------------------------------------------------------

    def _add_timer(self, attempt: Attempt, since: float) -> Watched | None:
        process, _ = self._pool._process_by_pid(attempt.worker_pid)
        if process is None:
            return None  # It is gone already; the pool will say so.
        watched = self._timers[attempt.worker_pid] = Watched(attempt, process, since)
        return watched

    def _check_all(self) -> None:
        self._next_check_at = _NEVER
        for watched in list(self._timers.values()):
            if watched.stop is None:
                self._check_limits(watched)
            if watched.stop is not None:
                self._continue_stop(watched, watched.stop)
        # What ends meanwhile is taken out: while the worker stops, the loop's timers run in a thread of their own.
        if dues := [self._compute_due(watched) for watched in list(self._timers.values())]:
            self._schedule_check(min(dues))

    def _check_limits(self, watched: Watched) -> None:
        attempt, extended = watched.attempt, self._get_extension(watched)
        passed = self._clock.monotonic() - watched.started_at - extended
        if attempt.hard and passed >= attempt.hard:
            now = self._clock.monotonic()
            watched.stop = Stop(attempt.hard + extended, "", now, now + GRACE)
        elif attempt.soft and passed >= attempt.soft and extended > watched.extension_at_soft_limit:
            watched.extension_at_soft_limit = extended
            self._signal_soft_limit(watched, attempt.soft + extended)

    def _signal_soft_limit(self, watched: Watched, limit: float) -> None:
        attempt = watched.attempt
        if attempt.token is not None:
            self._control_table.mark_timed_out(attempt.token, watched.process.index, limit)
        attempt.on_timeout(soft=True, timeout=limit)
        with contextlib.suppress(ProcessLookupError):
            os.kill(attempt.worker_pid, signal.SIGUSR1)

    def _continue_stop(self, watched: Watched, stop: Stop) -> None:
        now, pid = self._clock.monotonic(), watched.attempt.worker_pid
        if now >= stop.kill_at:
            stop.signal, stop.kill_at = "SIGKILL", now + GRACE  # Again, should the first have failed.
            processes.kill(pid, stop.members)
        elif now >= stop.term_at:
            stop.signal, stop.term_at = "SIGTERM", _NEVER
            watched.process._controlled_termination = True  # The pool does not take it for an accident.
            stop.members = processes.ask_to_end(pid)
            logger.info("attempt_stopped_by_force", pid=pid, limit=stop.limit, by=stop.requested_by or None)

    def _compute_due(self, watched: Watched) -> float:
        """When to look at it again (monotonic seconds)."""
        if watched.stop is not None:
            return min(watched.stop.term_at, watched.stop.kill_at)
        attempt, extended = watched.attempt, self._get_extension(watched)
        limits = [attempt.hard, attempt.soft if extended > watched.extension_at_soft_limit else None]
        return min((watched.started_at + extended + limit for limit in limits if limit), default=_NEVER)

    def _get_extension(self, watched: Watched) -> float:
        token = watched.attempt.token
        return 0.0 if token is None else self._control_table.get_extension(token, watched.process.index)

    def _schedule_check(self, due: float) -> None:
        now = self._clock.monotonic()
        due = min(due, now + _LONGEST_PAUSE)
        if due < self._next_check_at:
            self._next_check_at = due
            self._loop.call_later(max(0.0, due - now), self._on_timer, due)

    def _on_timer(self, due: float) -> None:
        # One that was overtaken by an earlier one has nothing to do.
        if due == self._next_check_at:
            self._check_all()
