"""Blockers: reasons why an execution does not run now. The relay checks them before it dispatches, the API on request.

A `detect_` function returns a blocker or None. All functions depend on their arguments only.
"""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.limits import ConcurrencyPolicy, RateLimitPolicy
from jobworker.domain.submissions import start_deadline
from jobworker.domain.workflows.dependency import RequiredOutcome

#: Time without a relay turn after which no relay counts as active (s): a relay turns every few seconds, even when idle.
RELAY_TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Blocker:
    """A reason why an execution waits: a stable code, a message for people, and details for programs (JSON)."""

    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


class LiveWorker(Protocol):
    """The properties of a worker with a recent heartbeat that blockers depend on."""

    @property
    def tasks(self) -> Collection[str]:
        """The tasks that the worker can run."""
        ...

    @property
    def queues(self) -> Collection[str]:
        """The queues that the worker consumes."""
        ...


class PausableQueue(Protocol):
    """The properties of a queue that blockers depend on; only a paused queue has a `paused_at`."""

    @property
    def name(self) -> str: ...
    @property
    def paused_at(self) -> dt.datetime | None: ...
    @property
    def paused_by(self) -> str | None: ...
    @property
    def pause_note(self) -> str | None: ...


def detect_queue_pause(queue: PausableQueue) -> Blocker | None:
    """Return a blocker if the queue is paused."""
    if queue.paused_at is None:
        return None
    note = f": {queue.pause_note}" if queue.pause_note else ""
    message = f"queue {queue.name} has been paused by {queue.paused_by} since {queue.paused_at.isoformat()}{note}"
    details = {"queue": queue.name, "since": queue.paused_at, "by": queue.paused_by, "note": queue.pause_note}
    return Blocker("queue_paused", message, details)


def detect_missing_worker(task: str, queue: str, workers: Iterable[LiveWorker]) -> Blocker | None:
    """Return a blocker if no live worker runs this task and consumes this queue."""
    serving_queue = serving_task = False
    for worker in workers:
        has_task, has_queue = task in worker.tasks, queue in worker.queues
        if has_task and has_queue:
            return None
        serving_task = serving_task or has_task
        serving_queue = serving_queue or has_queue
    details = {"task": task, "queue": queue}
    if not serving_task:
        return Blocker("no_worker_for_task", f"no live worker offers task {task}", details)
    if not serving_queue:
        return Blocker("no_worker_for_queue", f"no live worker consumes queue {queue}", details)
    return Blocker("no_worker", f"no live worker that consumes queue {queue} offers task {task}", details)


def find_runnable_tasks(queue: str, workers: Iterable[LiveWorker]) -> set[str]:
    """Return the tasks that live workers of this queue run, for which `detect_missing_worker` returns None."""
    return {task for worker in workers if queue in worker.queues for task in worker.tasks}


def detect_concurrency_limit(
    policy: ConcurrencyPolicy, key: str, held: int, holders: Sequence[str] = ()
) -> Blocker | None:
    """Return a blocker if no slot of this key is free: executions that run or are with workers hold the slots.

    `holders` are some of these executions, for the message.
    """
    return _detect_full("concurrency_limit", policy.limit, key, held, holders)


def detect_total_concurrency_limit(
    policy: ConcurrencyPolicy, job: str, held: int, holders: Sequence[str] = ()
) -> Blocker | None:
    """Return a blocker if no slot of the job is free, all keys together."""
    return None if policy.total is None else _detect_full("concurrency_total", policy.total, job, held, holders)


def _detect_full(code: str, limit: int, key: str, held: int, holders: Sequence[str]) -> Blocker | None:
    if held < limit:
        return None
    named = f" by {', '.join(holders)}" if holders else ""
    details = {"key": key, "limit": limit, "held": held, "holders": list(holders)}
    return Blocker(code, f"{held} of {limit} slots for {key} are held{named}", details)


def detect_rate_limit(
    policy: RateLimitPolicy, key: str, full_at: dt.datetime | None, ahead: int, now: dt.datetime
) -> Blocker | None:
    """Return a blocker if the rate limit of this key is reached; `ahead` are dispatched and not started."""
    details: dict[str, Any] = {"key": key, "limit": policy.limit, "per": policy.per, "ahead": ahead}
    if ahead >= policy.compute_max_ahead():
        return Blocker("rate_limit_ahead", f"{ahead} others of {key} may start and wait for a free worker", details)
    if policy.count_permits(full_at, now) > 0:
        return None
    until = policy.compute_next_start(full_at, now)
    message = f"{key} may start {policy.limit} times in {policy.per:g} s: the next at {until.isoformat()}"
    return Blocker("rate_limit", message, {**details, "until": until})


def detect_not_due(
    state: ExecutionState, due_at: dt.datetime, attempt: int, max_attempts: int | None, reason: str | None
) -> Blocker | None:
    """Return a blocker if the execution is not due; `reason` is the reason why its last attempt ended."""
    if state is ExecutionState.SCHEDULED:
        return Blocker("not_due", f"the execution is due at {due_at.isoformat()}", {"due_at": due_at})
    if state is not ExecutionState.RETRYING:
        return None
    # An attempt that used up no retry, a snooze for example, is not counted in `max_attempts`.
    of = f" of {max_attempts}" if max_attempts is not None and attempt < max_attempts else ""
    message = f"attempt {attempt + 1}{of} is due at {due_at.isoformat()}{f' ({reason})' if reason else ''}"
    details = {"attempt": attempt + 1, "max_attempts": max_attempts, "due_at": due_at, "reason": reason}
    return Blocker("retry_not_due", message, details)


def describe_dependency(parent: str, job: str | None, state: ExecutionState | None, on: RequiredOutcome) -> Blocker:
    """Return the blocker of an execution that waits for the end of its parent."""
    message = f"it depends on {parent} (job {job}), which is {state}, and waits for its {on}"
    details = {"execution": parent, "job": job, "state": state and state.value, "on": on.value}
    return Blocker("dependency", message, details)


def detect_expiry(expires_at: dt.datetime | None, now: dt.datetime) -> Blocker | None:
    """Return a blocker if the deadline for the start of the execution has passed."""
    if expires_at is None or now < expires_at:
        return None
    return Blocker("expired", start_deadline.describe_missed_deadline(expires_at), {"expires_at": expires_at})


def detect_missing_relay(turned_at: dt.datetime | None, now: dt.datetime) -> Blocker | None:
    """Return a blocker if no relay is active: the relay dispatches executions and records their events."""
    if turned_at is None or (now - turned_at).total_seconds() <= RELAY_TIMEOUT_SECONDS:
        return None
    message = f"no relay has been active since {turned_at.isoformat()}; start jobworker relay"
    return Blocker("no_relay", message, {"since": turned_at})


def detect_cancellation(requested_at: dt.datetime | None, requested_by: str | None) -> Blocker | None:
    """Return a blocker if the cancellation of the execution was requested."""
    if requested_at is None:
        return None
    message = f"{requested_by} requested its cancellation at {requested_at.isoformat()}"
    return Blocker("cancel_requested", message, {"since": requested_at, "by": requested_by})


def describe_running_attempt(worker: str | None, since: dt.datetime | None, attempt: int) -> Blocker:
    """Return the blocker of an execution whose attempt is running."""
    message = f"attempt {attempt} has been running on {worker} since {since.isoformat() if since else '?'}"
    return Blocker("running", message, {"worker": worker, "since": since, "attempt": attempt})


def describe_wait_for_worker(dispatched_at: dt.datetime, queue: str, others: int) -> Blocker:
    """Return the blocker of an execution whose message is in Redis and not started, with `others` of its queue."""
    message = (
        f"it has waited for a free worker of queue {queue} since {dispatched_at.isoformat()}, with {others} others"
    )
    return Blocker("waiting_for_worker", message, {"queue": queue, "since": dispatched_at, "others": others})


def describe_queue_position(queue: str, ahead: int, oldest: dt.datetime) -> Blocker:
    """Return the blocker of an execution behind others of its queue, which the relay dispatches in order."""
    message = f"{ahead} executions are before it in queue {queue}; the oldest has been due since {oldest.isoformat()}"
    return Blocker("position", message, {"queue": queue, "ahead": ahead, "oldest_due_at": oldest})
