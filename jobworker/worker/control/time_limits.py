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
from jobworker.worker.control import process_tree
from jobworker.worker.control.process_tree import ProcessInfo
from jobworker.worker.control.slots import ControlTable

logger = structlog.get_logger(__name__)

#: A job that is told of its cancellation has so long (s) to end by itself.
CANCEL_TIMEOUT_SECONDS = 3.0

#: After SIGTERM a process has so long (s) to clean up.
TERMINATE_TIMEOUT_SECONDS = 2.0

#: The event loop looks at least so often (s) while there is something to look after.
_MAX_CHECK_INTERVAL_SECONDS = 1.0

_NEVER = float("inf")


class LimitedAttempt(Protocol):
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
class ForcedStop:
    """Why an attempt has to stop, and what has been done about it.

    `limit`: the hard limit (s) that passed; else `by` wants it cancelled. `signal`: the last one that was sent.
    """

    limit: float | None
    requested_by: str
    term_at: float
    kill_at: float
    signal: str = ""
    members: set[ProcessInfo] = field(default_factory=set)


@dataclass(slots=True)
class AttemptTimer:
    """One attempt, the process that runs it, and since when. `struck`: the extension at its last soft limit."""

    attempt: LimitedAttempt
    process: Any
    started_at: float
    extension_at_soft_limit: float = -1.0
    stop: ForcedStop | None = None


class TimeLimitEnforcer:
    """The attempts that somebody has to look after, by the process that runs each."""

    def __init__(self, control_table: ControlTable, clock: Clock) -> None:
        self._control_table = control_table
        self._clock = clock
        self._timers: dict[int, AttemptTimer] = {}
        self._loop: Any = None
        self._pool: Any = None
        self._next_check_at = _NEVER

    def attach_to_loop(self, loop: Any, pool: Any) -> None:
        """Work with this event loop and this pool (billiard's) from now on. Again after each reconnection."""
        self._loop, self._pool = loop, pool
        self._next_check_at = _NEVER
        if self._timers:
            self._check_all()

    def watch_attempt(self, attempt: LimitedAttempt, started_at: float) -> None:
        """An attempt with limits has begun, `started_at` then (monotonic seconds)."""
        if watched := self._add_timer(attempt, started_at):
            self._schedule_check(self._compute_due(watched))

    def stop_attempt(self, attempt: LimitedAttempt, requested_by: str) -> None:
        """Somebody wants this attempt stopped: first by itself, then by force. Again changes nothing."""
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
        """The attempt has ended. How it was stopped, if it was by force; nothing that it started is left then."""
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
            return None  # It is gone already; the pool will say so.
        watched = self._timers[attempt.worker_pid] = AttemptTimer(attempt, process, started_at)
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
            stop.signal, stop.kill_at = (
                "SIGKILL",
                now + TERMINATE_TIMEOUT_SECONDS,
            )  # Again, should the first have failed.
            process_tree.kill_tree(pid, stop.members)
        elif now >= stop.term_at:
            stop.signal, stop.term_at = "SIGTERM", _NEVER
            timer.process._controlled_termination = True  # The pool does not take it for an accident.
            stop.members = process_tree.terminate_tree(pid)
            logger.info("attempt_stopped_by_force", pid=pid, limit=stop.limit, by=stop.requested_by or None)

    def _compute_due(self, timer: AttemptTimer) -> float:
        """When to look at it again (monotonic seconds)."""
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
        # One that was overtaken by an earlier one has nothing to do.
        if due == self._next_check_at:
            self._check_all()
