"""The hooks of a class-based job, which run when the outcome of an attempt is known."""

from collections.abc import Callable, Iterator
from typing import Any

from jobworker.declare import Job, classes
from jobworker.domain.executions.events import STATE_BY_KIND, EventKind
from jobworker.worker.attempt.outcome import AttemptOutcome


def run_hooks(job_class: type[Job], outcome: AttemptOutcome, value: Any) -> None:
    """Call the hooks for this outcome; `value` is what the job returned or raised. Never raises."""
    job = classes.get_current_job()
    if not isinstance(job, job_class):
        return  # The attempt ended before the job was created.
    for hook, arguments in _select_hooks(job, outcome, value):
        try:
            hook(*arguments)
        except BaseException:  # noqa: BLE001  the outcome is decided, a hook cannot change it
            classes.log_hook_failure(hook)


def _select_hooks(
    job: Job, outcome: AttemptOutcome, value: Any
) -> Iterator[tuple[Callable[..., None], tuple[Any, ...]]]:
    if outcome.kind is EventKind.SUCCEEDED:
        yield job.on_success, (outcome.data.get("result") if isinstance(value, BaseException) else value,)
    elif outcome.kind is EventKind.RETRYING:
        if not outcome.data.get("snoozed"):
            yield job.on_retry, (_find_cause(value), outcome.data["delay"])
    elif outcome.kind is EventKind.CANCELLED:
        yield job.on_cancel, ()
    else:
        yield job.on_failure, (value,)
    yield job.after_return, (STATE_BY_KIND[outcome.kind].value,)


def _find_cause(retry: BaseException) -> BaseException:
    """Return the failure behind a retry; without one, the retry itself."""
    cause: BaseException | None = retry.__cause__ or getattr(retry, "exc", None)
    return cause or retry
