"""The names of the jobs and Celery tasks of this process: each belongs to one function or class."""

import inspect
from collections.abc import Callable
from typing import Any

from jobworker.domain.errors import ConfigurationError
from jobworker.domain.executions.direct_call import MAX_TASK_NAME_LENGTH

#: Location of the job of each name: the file and the qualified name of its function or class.
_locations: dict[str, tuple[str, str]] = {}


def reserve(name: str, function: Callable[..., Any]) -> None:
    """Reserve `name` for a function or class.

    Raises `ConfigurationError` if another function has the name, because Celery would choose between them by chance,
    and if the history cannot store the name.
    """
    if not 0 < len(name) <= MAX_TASK_NAME_LENGTH or not name.isprintable():
        raise ConfigurationError(f"task {name!r}: a name has 1 to {MAX_TASK_NAME_LENGTH} printable characters")
    if name.startswith("celery.") and not function.__module__.startswith("celery."):
        raise ConfigurationError(
            f"task {name}: names that begin with celery. are of Celery's own tasks; give it another name"
        )
    body = inspect.unwrap(function)
    location = (body.__code__.co_filename if hasattr(body, "__code__") else body.__module__, function.__qualname__)
    previous = _locations.setdefault(name, location)
    # Each call of the enclosing function creates a nested function anew, so nested functions are not compared.
    if previous != location and "<locals>" not in previous[1] + location[1]:
        raise ConfigurationError(
            f"job {name}: {previous[1]} in {previous[0]} has this name already; give one of them another name"
        )
