"""The hooks of a job that is a class, once it is known how an attempt ends."""

from collections.abc import Callable, Iterator
from typing import Any

from jobworker.declare import Job, classes
from jobworker.domain.events import STATES, Kind
from jobworker.worker.outcome import Outcome


def after(kind: type[Job], ended: Outcome, value: Any) -> None:
    """Call what belongs to this end; `value` is what the job returned or raised. Never raises."""
    made = classes.present()
    if not isinstance(made, kind):
        return  # It did not get as far as that.
    for hook, arguments in _hooks(made, ended, value):
        try:
            hook(*arguments)
        except BaseException:  # noqa: BLE001  the end is decided, whatever is raised here
            classes.complain(hook)


def _hooks(made: Job, ended: Outcome, value: Any) -> Iterator[tuple[Callable[..., None], tuple[Any, ...]]]:
    if ended.kind is Kind.SUCCEEDED:
        yield made.on_success, (ended.data.get("result") if isinstance(value, BaseException) else value,)
    elif ended.kind is Kind.RETRYING:
        if not ended.data.get("snoozed"):
            yield made.on_retry, (_cause(value), ended.data["delay"])
    elif ended.kind is Kind.CANCELLED:
        yield made.on_cancel, ()
    else:
        yield made.on_failure, (value,)
    yield made.after_return, (STATES[ended.kind].value,)


def _cause(asked: BaseException) -> BaseException:
    """What went wrong; if the job has not said, its wish for another attempt itself."""
    cause: BaseException | None = asked.__cause__ or getattr(asked, "exc", None)
    return cause or asked
