"""The names of this process's jobs and Celery tasks: each belongs to one function or class."""

import inspect
from collections.abc import Callable
from typing import Any

from jobworker.domain.calls import LONGEST_TASK
from jobworker.domain.errors import Misconfigured

#: Where the job of each name is declared: the file and the name of its function or class.
_places: dict[str, tuple[str, str]] = {}


def take(name: str, function: Callable[..., Any]) -> None:
    """Keep `name` for a function or class.

    Raises `Misconfigured` if it is another's, between which Celery would choose by chance, or none for the history.
    """
    if not 0 < len(name) <= LONGEST_TASK or not name.isprintable():
        raise Misconfigured(f"task {name!r}: a name has 1 to {LONGEST_TASK} printable characters")
    if name.startswith("celery.") and not function.__module__.startswith("celery."):
        raise Misconfigured(
            f"task {name}: names that begin with celery. are of Celery's own tasks; give it another name"
        )
    body = inspect.unwrap(function)
    place = (body.__code__.co_filename if hasattr(body, "__code__") else body.__module__, function.__qualname__)
    before = _places.setdefault(name, place)
    # A function within another one is made anew by each call, and so is not told apart.
    if before != place and "<locals>" not in before[1] + place[1]:
        raise Misconfigured(
            f"job {name}: {before[1]} in {before[0]} has this name already; give one of them another name"
        )
