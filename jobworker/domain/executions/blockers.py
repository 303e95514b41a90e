"""Why work does not run now. The relay asks before it publishes, the API when somebody asks why.

A gate answers None, or the reason that it sees; it looks only at what it is given.
"""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import start_deadline
from jobworker.domain.jobs.limits import ConcurrencyPolicy, RateLimitPolicy
from jobworker.domain.workflows.dependency import RequiredOutcome

#: The relay turns at least every few seconds, also when there is nothing to do (s).
RELAY_TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Blocker:
    """One thing that an execution waits for: a stable code, words for people, and figures for programs (JSON)."""

    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


class LiveWorker(Protocol):
    """What the gates want to know of a worker whose heartbeat is recent."""

    @property
    def tasks(self) -> Collection[str]:
        """The tasks that it can run."""
        ...

    @property
    def queues(self) -> Collection[str]:
        """The queues that it consumes."""
        ...


class PausableQueue(Protocol):
    """What the gates want to know of a queue; `paused_at` is None unless somebody has stopped it."""

    @property
    def name(self) -> str: ...
    @property
    def paused_at(self) -> dt.datetime | None: ...
    @property
    def paused_by(self) -> str | None: ...
    @property
    def pause_note(self) -> str | None: ...


def detect_queue_pause(queue: PausableQueue) -> Blocker | None:
    """Somebody has paused its queue."""
    if queue.paused_at is None:
        return None
    note = f": {queue.pause_note}" if queue.pause_note else ""
    message = f"queue {queue.name} has been paused by {queue.paused_by} since {queue.paused_at.isoformat()}{note}"
    details = {"queue": queue.name, "since": queue.paused_at, "by": queue.paused_by, "note": queue.pause_note}
    return Blocker("queue_paused", message, details)


def detect_missing_worker(task: str, queue: str, workers: Iterable[LiveWorker]) -> Blocker | None:
    """No live worker would take this task from this queue."""
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
    """The tasks that are not `blocked` on this queue."""
    return {task for worker in workers if queue in worker.queues for task in worker.tasks}


def detect_concurrency_limit(
    policy: ConcurrencyPolicy, key: str, held: int, holders: Sequence[str] = ()
) -> Blocker | None:
    """As many of this key run (or are with workers already) as may; `holders` are some of them, to be named."""
    return _detect_full("concurrency_limit", policy.limit, key, held, holders)


def detect_total_concurrency_limit(
    policy: ConcurrencyPolicy, job: str, held: int, holders: Sequence[str] = ()
) -> Blocker | None:
    """As many of all keys of the job run as may."""
    return None if policy.total is None else _detect_full("concurrency_total", policy.total, job, held, holders)


def _detect_full(code: str, limit: int, key: str, held: int, holders: Sequence[str]) -> Blocker | None:
    if held < limit:
        return None
    named = f" by {', '.join(holders)}" if holders else ""
    details = {"key": key, "limit": limit, "held": held, "holders": list(holders)}
    return Blocker(code, f"{held} of {limit} places for {key} are held{named}", details)


def detect_rate_limit(
    policy: RateLimitPolicy, key: str, full_at: dt.datetime | None, ahead: int, now: dt.datetime
) -> Blocker | None:
    """No more of this key may start yet; `ahead` of them have been published and have not started."""
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
    """Its time has not come; `reason` is what made the last attempt end."""
    if state is ExecutionState.SCHEDULED:
        return Blocker("not_due", f"it is due at {due_at.isoformat()}", {"due_at": due_at})
    if state is not ExecutionState.RETRYING:
        return None
    # What uses up no retry, a snooze for example, is an attempt beyond their number.
    of = f" of {max_attempts}" if max_attempts is not None and attempt < max_attempts else ""
    message = f"attempt {attempt + 1}{of} is due at {due_at.isoformat()}{f' ({reason})' if reason else ''}"
    details = {"attempt": attempt + 1, "max_attempts": max_attempts, "due_at": due_at, "reason": reason}
    return Blocker("retry_not_due", message, details)


def describe_dependency(parent: str, job: str | None, state: ExecutionState | None, on: RequiredOutcome) -> Blocker:
    """The execution waits for the end of another one."""
    message = f"it depends on {parent} (job {job}), which is {state}, and waits for its {on}"
    details = {"execution": parent, "job": job, "state": state and state.value, "on": on.value}
    return Blocker("dependency", message, details)


def detect_expiry(expires_at: dt.datetime | None, now: dt.datetime) -> Blocker | None:
    """It is too late to start it."""
    if expires_at is None or now < expires_at:
        return None
    return Blocker("expired", start_deadline.describe_missed_deadline(expires_at), {"expires_at": expires_at})


def detect_missing_relay(turned_at: dt.datetime | None, now: dt.datetime) -> Blocker | None:
    """No relay is at work: it would publish what may run, and write down what became of it."""
    if turned_at is None or (now - turned_at).total_seconds() <= RELAY_TIMEOUT_SECONDS:
        return None
    message = f"no relay has been at work since {turned_at.isoformat()}; start jobworker relay"
    return Blocker("no_relay", message, {"since": turned_at})


def detect_cancellation(requested_at: dt.datetime | None, requested_by: str | None) -> Blocker | None:
    """Somebody has asked for it not to go on."""
    if requested_at is None:
        return None
    message = f"{requested_by} asked at {requested_at.isoformat()} for it to be cancelled"
    return Blocker("cancel_requested", message, {"since": requested_at, "by": requested_by})


def describe_running_attempt(worker: str | None, since: dt.datetime | None, attempt: int) -> Blocker:
    """It has not finished yet."""
    message = f"attempt {attempt} has been running on {worker} since {since.isoformat() if since else '?'}"
    return Blocker("running", message, {"worker": worker, "since": since, "attempt": attempt})


def describe_wait_for_worker(dispatched_at: dt.datetime, queue: str, others: int) -> Blocker:
    """Its message is in Redis and no worker has started it; `others` of the queue are there, too."""
    message = (
        f"it has waited for a free worker of queue {queue} since {dispatched_at.isoformat()}, with {others} others"
    )
    return Blocker("waiting_for_worker", message, {"queue": queue, "since": dispatched_at, "others": others})


def describe_queue_position(queue: str, ahead: int, oldest: dt.datetime) -> Blocker:
    """What is ready leaves the database in order, as workers take what was published."""
    message = f"{ahead} executions are before it in queue {queue}; the oldest has been due since {oldest.isoformat()}"
    return Blocker("position", message, {"queue": queue, "ahead": ahead, "oldest_due_at": oldest})
