"""Celery's result backend for programs that make direct calls: `add.delay(1, 2).get(timeout=10)` reads the history.

Workers have none, because their reports contain the results.
"""

import importlib
from typing import Any, NoReturn

from celery.backends.base import BaseBackend


class ResultBackend(BaseBackend):
    """A read-only result backend. It opens the database with the first read."""

    def as_uri(self, include_password: bool = True) -> str:
        """Return the URI that Celery shows for the backend."""
        return "history://"

    def ensure_chords_allowed(self) -> NoReturn:
        """Raise `NotImplementedError`: a worker would have to count the results of a chord's header."""
        raise NotImplementedError("chords are not supported; submit a workflow, whose last step depends on the others")

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        # Imported by name, because modules that a worker imports must not import SQL.
        meta: dict[str, Any] = importlib.import_module("jobworker.results").find(task_id)
        if meta["status"] in self.EXCEPTION_STATES:
            meta["result"] = self.exception_to_python(meta["result"])
        return meta

    def _store_result(self, *_: Any, **__: Any) -> None:
        """Do nothing: the relay stores the reports."""

    def _forget(self, task_id: str) -> NoReturn:
        raise NotImplementedError(f"execution {task_id} cannot be removed from the history")
