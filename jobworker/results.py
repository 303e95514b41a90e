"""States and results of direct calls, read from the history for `jobworker.worker.celery.result_backend`.

Only processes that read results import this module, because workers do without the database.
"""

import functools
import importlib
from collections.abc import Mapping
from typing import Any

import orjson
from celery import states

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.ids import is_id
from jobworker.files.local import LocalFiles
from jobworker.settings import Settings
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.store.executions.executions import ExecutionRow

#: Celery's names for JobWorker's states.
_CELERY_STATES: Mapping[ExecutionState, str] = {
    ExecutionState.SCHEDULED: states.PENDING,
    ExecutionState.WAITING: states.PENDING,
    ExecutionState.QUEUED: states.PENDING,
    ExecutionState.RUNNING: states.STARTED,
    ExecutionState.RETRYING: states.RETRY,
    ExecutionState.SUCCEEDED: states.SUCCESS,
    ExecutionState.FAILED: states.FAILURE,
    ExecutionState.TIMED_OUT: states.FAILURE,
    ExecutionState.CANCELLED: states.REVOKED,
    ExecutionState.SKIPPED: states.REVOKED,
}


def find(task_id: str) -> dict[str, Any]:
    """Return Celery's meta of a task, by the id of its execution or the id that the call set itself.

    A call that no worker has fetched yet is pending: it cannot be distinguished from a call that does not exist. Raises
    the errors of the database.
    """
    settings, database = _open_database()
    with database.read() as connection:
        row = executions.get(connection, task_id) if is_id(task_id) else None
        if row is None:
            filters = ExecutionFilters(correlation_id=task_id)
            row = next(iter(executions.list_page(connection, filters, 1, None).items), None)
    if row is None:
        return {"status": states.PENDING, "result": None, "traceback": None}
    return {
        "status": _CELERY_STATES[row.state],
        "result": _read_result(row, settings) if row.state is ExecutionState.SUCCEEDED else _describe_failure(row),
        "traceback": row.error.get("traceback") if row.error else None,
        "date_done": row.finished_at,
    }


def _describe_failure(row: ExecutionRow) -> dict[str, Any] | None:
    """Return the fields of which Celery makes an exception."""
    if row.error is not None:
        name = row.error["type"]
        # Celery uses the class itself where it finds it; otherwise it creates a class of this name.
        module = next(
            (candidate for candidate in ("builtins", "celery.exceptions") if _is_exception_class(candidate, name)), None
        )
        return {"exc_type": name, "exc_message": row.error["message"], "exc_module": module}
    if row.state in (ExecutionState.CANCELLED, ExecutionState.SKIPPED):
        return {
            "exc_type": "TaskRevokedError",
            "exc_module": "celery.exceptions",
            "exc_message": row.reason or "cancelled",
        }
    return {"exc_type": row.state.value, "exc_message": row.reason or ""}


def _is_exception_class(module: str, name: str) -> bool:
    value = getattr(importlib.import_module(module), name, None)
    return isinstance(value, type) and issubclass(value, BaseException)


def _read_result(row: ExecutionRow, settings: Settings) -> Any:
    file = row.result_file
    if file is None:
        return row.result
    opened = LocalFiles(settings.home, row.id).open(file["name"])
    if opened is None:
        raise LookupError(f"the result of execution {row.id} is the file {file['name']} on host {file['host']}")
    with opened[0] as stream:
        return orjson.loads(stream.read())


@functools.cache
def _open_database() -> tuple[Settings, Database]:
    settings = Settings.from_environment()
    return settings, Database(settings.database_url)
