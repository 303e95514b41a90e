"""Celery's result backend of programs that call jobs: `add.delay(1, 2).get(timeout=10)` reads the history.

Workers have none: what becomes of a job is in their reports.
"""

import importlib
from typing import Any, NoReturn

from celery.backends.base import BaseBackend


class ResultBackend(BaseBackend):
    """Reads, and never writes. The database is opened when something is asked."""

    def as_uri(self, include_password: bool = True) -> str:
        """Return what Celery shows for it."""
        return "history://"

    def ensure_chords_allowed(self) -> NoReturn:
        """Raise `NotImplementedError`: a worker would have to count the results of a chord's header."""
        raise NotImplementedError("chords are not kept; submit a workflow, whose last step depends on the others")

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        # By name: what a worker imports must not reach SQL.
        found: dict[str, Any] = importlib.import_module("jobworker.results").find(task_id)
        if found["status"] in self.EXCEPTION_STATES:
            found["result"] = self.exception_to_python(found["result"])
        return found

    def _store_result(self, *_: Any, **__: Any) -> None:
        """Nothing: reports are stored by the relay."""

    def _forget(self, task_id: str) -> NoReturn:
        raise NotImplementedError(f"execution {task_id} stays in the history")
