"""The built-in jobs of every worker: `http.request`, `shell.run` and `container.run`."""

import importlib

_MODULES = ("container", "http", "shell")


def register_jobs() -> None:
    """Register the built-in jobs as tasks of every Celery app."""
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")
