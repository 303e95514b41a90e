"""The hooks of a job that is a class, once it is known how an attempt ends."""

from collections.abc import Callable, Iterator
from typing import Any

from jobworker.declare import Job, classes
from jobworker.domain.executions.events import STATE_BY_KIND, EventKind
from jobworker.worker.attempt.outcome import AttemptOutcome


def run_hooks(job_class: type[Job], outcome: AttemptOutcome, value: Any) -> None:
    """Call what belongs to this end; `value` is what the job returned or raised. Never raises."""
    made = classes.get_current_job()
    if not isinstance(made, job_class):
        return  # It did not get as far as that.
    for hook, arguments in _select_hooks(made, outcome, value):
        try:
            hook(*arguments)
        except BaseException:  # noqa: BLE001  the end is decided, whatever is raised here
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
    """What went wrong; if the job has not said, its wish for another attempt itself."""
    cause: BaseException | None = retry.__cause__ or getattr(retry, "exc", None)
    return cause or retry
