"""What cannot be meant among Celery's own options of a job; Celery itself would fail in the middle of a run."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobworker.domain.admission import check_limits
from jobworker.domain.errors import FieldError, Misconfigured
from jobworker.domain.retry import MAX_ATTEMPTS


def check(given: Mapping[str, Any]) -> Iterator[FieldError]:
    """What is wrong with those of these options that JobWorker relies on."""
    retries = given.get("max_retries")
    if retries is not None and (type(retries) is not int or not 0 <= retries < MAX_ATTEMPTS):
        message = f"max_retries must be an integer from 0 to {MAX_ATTEMPTS - 1}, or None for any number"
        yield FieldError("/max_retries", "not_allowed", message)
    for name in ("default_retry_delay", "retry_backoff_max"):
        if name in given and not _is_wait(given[name]):
            yield FieldError(f"/{name}", "not_allowed", f"{name} must be a number of seconds, 0 or more")
    backoff = given.get("retry_backoff", False)
    if not isinstance(backoff, bool) and not _is_wait(backoff):
        message = "retry_backoff must be True, False or a number of seconds, 0 or more"
        yield FieldError("/retry_backoff", "not_allowed", message)
    yield from _limits(given.get("time_limit"), given.get("soft_time_limit"))


def refuse_coroutine(name: str, function: Callable[..., Any]) -> None:
    """Raise `Misconfigured` if a worker, which calls plain functions, could not run it."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise Misconfigured(
            f"@job {name}: workers call plain functions, each run of an `async def` would fail; "
            "make it a `def` that runs its coroutine with asyncio.run()"
        )


def _limits(hard: Any, soft: Any) -> Iterator[FieldError]:
    limits = {"time_limit": hard, "soft_time_limit": soft}
    wrong = [name for name, limit in limits.items() if limit is not None and not _is_number(limit)]
    for name in wrong:
        yield FieldError(f"/{name}", "wrong_type", f"{name} must be a number of seconds")
    if not wrong:
        yield from check_limits(hard, soft)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_wait(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and value >= 0
