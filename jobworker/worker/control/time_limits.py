"""Enforcement of time limits and stops for attempts that run in processes of the pool.

The event loop checks all attempts: whether the soft limit or the hard limit has passed, and whether a cancelled attempt
still runs. To stop an attempt, SIGTERM is sent to its process and all descendants, and SIGKILL a little later. The
attempt has ended when its process has ended; anything that the job reports after SIGTERM is ignored.
"""

import contextlib
import os
import signal
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from jobworker.clock import Clock
from jobworker.worker.control import process_tree
from jobworker.worker.control.process_tree import ProcessInfo
from jobworker.worker.control.slots import ControlTable

logger = structlog.get_logger(__name__)

#: Time in which a cancelled attempt may end by itself (s).
CANCEL_TIMEOUT_SECONDS = 3.0

#: Time for cleanup between SIGTERM and SIGKILL (s).
TERMINATE_TIMEOUT_SECONDS = 2.0

#: Maximum interval between checks while attempts are watched (s).
_MAX_CHECK_INTERVAL_SECONDS = 1.0

_NEVER = float("inf")


class LimitedAttempt(Protocol):
    """The part of an attempt that its limits need. A plain Celery task has no `token`; limits are in seconds.

    `cancel_timeout` is the time (s) in which a cancelled attempt may end by itself.
    """

    worker_pid: int
    token: str | None
    hard: float | None
    soft: float | None
    cancel_timeout: float

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Handle the passing of a limit."""
        ...


@dataclass(slots=True)
class ForcedStop:
    """The reason why an attempt is stopped by force, and the state of the stop.

    `limit`: the hard limit (s) that passed, or None after a cancellation by `requested_by`. `signal`: the last signal
    that was sent.
    """

    limit: float | None
    requested_by: str
    term_at: float
    kill_at: float
    signal: str = ""
    members: set[ProcessInfo] = field(default_factory=set)


@dataclass(slots=True)
class AttemptTimer:
    """A watched attempt, its process, and its start time (monotonic seconds).

    `extension_at_soft_limit`: the extension (s) when the soft limit last passed.
    """

    attempt: LimitedAttempt
    process: Any
    started_at: float
    extension_at_soft_limit: float = -1.0
    stop: ForcedStop | None = None


class TimeLimitEnforcer:
    """The watched attempts, by the pid of the process that runs each."""

    def __init__(self, control_table: ControlTable, clock: Clock) -> None:
        self._control_table = control_table
        self._clock = clock
        self._timers: dict[int, AttemptTimer] = {}
        self._loop: Any = None
        self._pool: Any = None
        self._next_check_at = _NEVER

    def attach_to_loop(self, loop: Any, pool: Any) -> None:
        """Use this event loop and this pool (billiard's) from now on; called again after each reconnection."""
        self._loop, self._pool = loop, pool
        self._next_check_at = _NEVER
        if self._timers:
            self._check_all()

    def watch_attempt(self, attempt: LimitedAttempt, started_at: float) -> None:
        """Watch an attempt with limits that began at `started_at` (monotonic seconds)."""
        if watched := self._add_timer(attempt, started_at):
            self._schedule_check(self._compute_due(watched))

    def stop_attempt(self, attempt: LimitedAttempt, requested_by: str) -> None:
        """Cancel the attempt: cooperatively first, then by signals. Idempotent."""
        now = self._clock.monotonic()
        watched = self._timers.get(attempt.worker_pid) or self._add_timer(attempt, now)
        if watched is None or watched.stop is not None:
            return
        if attempt.token is not None:
            self._control_table.mark_cancelled(attempt.token, watched.process.index)
        watched.stop = ForcedStop(
            None, requested_by, now + attempt.cancel_timeout, now + attempt.cancel_timeout + TERMINATE_TIMEOUT_SECONDS
        )
        self._schedule_check(watched.stop.term_at)

    def finish_attempt(self, attempt: LimitedAttempt) -> ForcedStop | None:
        """Return how the attempt that has ended was stopped by force, else None; kill any process that it left."""
        watched = self._timers.get(attempt.worker_pid)
        if watched is None or watched.attempt is not attempt:
            return None
        del self._timers[attempt.worker_pid]
        if watched.stop is None or not watched.stop.signal:
            return None
        process_tree.kill_tree(attempt.worker_pid, watched.stop.members)
        return watched.stop

    # --- by the event loop ------------------------------------------------------------------------------------

    def _add_timer(self, attempt: LimitedAttempt, started_at: float) -> AttemptTimer | None:
        process, _ = self._pool._process_by_pid(attempt.worker_pid)
        if process is None:
            return None  # The process has ended already; the pool reports that.
        watched = self._timers[attempt.worker_pid] = AttemptTimer(attempt, process, started_at)
        return watched

    def _check_all(self) -> None:
        self._next_check_at = _NEVER
        for watched in list(self._timers.values()):
            if watched.stop is None:
                self._check_limits(watched)
            if watched.stop is not None:
                self._continue_stop(watched, watched.stop)
        # Attempts that end meanwhile are removed: while the worker stops, the loop's timers run in a thread of their
        # own.
        if dues := [self._compute_due(watched) for watched in list(self._timers.values())]:
            self._schedule_check(min(dues))

    def _check_limits(self, timer: AttemptTimer) -> None:
        attempt, extended = timer.attempt, self._get_extension(timer)
        passed = self._clock.monotonic() - timer.started_at - extended
        if attempt.hard and passed >= attempt.hard:
            now = self._clock.monotonic()
            timer.stop = ForcedStop(attempt.hard + extended, "", now, now + TERMINATE_TIMEOUT_SECONDS)
        elif attempt.soft and passed >= attempt.soft and extended > timer.extension_at_soft_limit:
            timer.extension_at_soft_limit = extended
            self._signal_soft_limit(timer, attempt.soft + extended)

    def _signal_soft_limit(self, timer: AttemptTimer, limit: float) -> None:
        attempt = timer.attempt
        if attempt.token is not None:
            self._control_table.mark_timed_out(attempt.token, timer.process.index, limit)
        attempt.on_timeout(soft=True, timeout=limit)
        with contextlib.suppress(ProcessLookupError):
            os.kill(attempt.worker_pid, signal.SIGUSR1)

    def _continue_stop(self, timer: AttemptTimer, stop: ForcedStop) -> None:
        now, pid = self._clock.monotonic(), timer.attempt.worker_pid
        if now >= stop.kill_at:
            # Sent again, in case the first SIGKILL failed.
            stop.signal, stop.kill_at = "SIGKILL", now + TERMINATE_TIMEOUT_SECONDS
            process_tree.kill_tree(pid, stop.members)
        elif now >= stop.term_at:
            stop.signal, stop.term_at = "SIGTERM", _NEVER
            timer.process._controlled_termination = True  # Keeps the pool from treating the end as a crash.
            stop.members = process_tree.terminate_tree(pid)
            logger.info("attempt_stopped_by_force", pid=pid, limit=stop.limit, by=stop.requested_by or None)

    def _compute_due(self, timer: AttemptTimer) -> float:
        """Return the time of the next check of an attempt (monotonic seconds)."""
        if timer.stop is not None:
            return min(timer.stop.term_at, timer.stop.kill_at)
        attempt, extended = timer.attempt, self._get_extension(timer)
        limits = [attempt.hard, attempt.soft if extended > timer.extension_at_soft_limit else None]
        return min((timer.started_at + extended + limit for limit in limits if limit), default=_NEVER)

    def _get_extension(self, timer: AttemptTimer) -> float:
        token = timer.attempt.token
        return 0.0 if token is None else self._control_table.get_extension(token, timer.process.index)

    def _schedule_check(self, due: float) -> None:
        now = self._clock.monotonic()
        due = min(due, now + _MAX_CHECK_INTERVAL_SECONDS)
        if due < self._next_check_at:
            self._next_check_at = due
            self._loop.call_later(max(0.0, due - now), self._on_timer, due)

    def _on_timer(self, due: float) -> None:
        # A timer that an earlier one has replaced has nothing to do.
        if due == self._next_check_at:
            self._check_all()
