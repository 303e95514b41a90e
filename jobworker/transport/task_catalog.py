"""Task catalog: the tasks of a Celery app, described as data."""

import hashlib
import inspect
import json
from typing import Any

import structlog
from celery import Celery

from jobworker.declare import Context, JobOptions
from jobworker.domain.jobs import parameters

logger = structlog.get_logger(__name__)

#: Celery's own options that are shown with a task.
_CELERY_OPTIONS = ("max_retries", "time_limit", "soft_time_limit", "retry_backoff", "retry_backoff_max", "retry_jitter")


def describe_tasks(app: Celery) -> list[dict[str, Any]]:
    """Return the description of each user-defined task, by name; one that cannot be described is logged and omitted."""
    descriptions = []
    for name, task in sorted(app.tasks.items()):
        if not name.startswith("celery."):
            try:
                described = _describe_task(task)
                json.dumps(described)
            except Exception as error:  # noqa: BLE001  options of plain tasks are arbitrary user values
                why = f"its options cannot be announced: {type(error).__name__}: {error}"
                logger.error("task_left_out", task=name, why=why)
            else:
                descriptions.append(described)
    return descriptions


def compute_digest(catalog: list[dict[str, Any]]) -> str:
    """Return a digest of the catalog."""
    return hashlib.sha256(json.dumps(catalog, sort_keys=True).encode()).hexdigest()[:16]


def _describe_task(task: Any) -> dict[str, Any]:
    options: JobOptions = getattr(task, "job_options", None) or JobOptions()
    shown = {name: getattr(task, name, None) for name in _CELERY_OPTIONS}
    # Celery also accepts a time there, which is fixed for all executions.
    shown["expires"] = task.expires if isinstance(getattr(task, "expires", None), int | float) else None
    shown["autoretry_for"] = [error.__name__ for error in getattr(task, "autoretry_for", ())]
    return {
        "name": task.name,
        "description": inspect.cleandoc(task.run.__doc__ or ""),
        "parameters": [parameter.to_json() for parameter in _parameters(task)],
        "options": {
            **{name: value for name, value in shown.items() if value is not None},
            "queue": options.queue,
            "priority": options.priority,
            "on_worker_lost": options.on_worker_lost.value,
            "schedule": dict(options.schedule) if options.schedule else None,
            "tags": list(options.tags),
            "policies": dict(options.policies),
        },
    }


def _parameters(task: Any) -> tuple[parameters.Parameter, ...]:
    try:
        return parameters.from_signature(task.run, injected_types=(Context,))
    except (NameError, TypeError, ValueError):
        # Unresolvable annotations describe no parameters; the task accepts any.
        return (parameters.VARIADIC,)
