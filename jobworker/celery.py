"""The Celery app of `celery -A jobworker worker | beat | flower | inspect …`."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import structlog
from celery import Celery, signals

from jobworker import environment, loading
from jobworker.domain.errors import ConfigurationError
from jobworker.loading import BrokenModule
from jobworker.settings import Settings
from jobworker.telemetry import logging
from jobworker.transport.celery_settings import build_celery_settings, merge_settings
from jobworker.up import discovery
from jobworker.worker.attempt import output_capture
from jobworker.worker.bootstrap import install_into_celery
from jobworker.worker.celery.task import JobApp

logger = structlog.get_logger(__name__)

#: Name of a long-running process; None in a command that ends soon.
_PROCESS_NAME = next((word for word in sys.argv if word in ("worker", "beat", "flower")), None)


def _read_settings() -> Settings:
    try:
        return discovery.read_settings()
    except ConfigurationError as error:
        raise SystemExit(f"error: {error}") from None


_settings = _read_settings()


def load_tasks() -> list[BrokenModule]:
    """Import the users' job modules; return and log those that are broken, the others work."""
    app.finalize()  # From here on each task is created, and refused, where its module declares it.
    broken = loading.load_modules(_settings.tasks)
    for module in broken:
        # Each process imports the modules. Processes that run no jobs do without them, and workers report them to the
        # relay.
        if _PROCESS_NAME == "worker":
            log, more = logger.error, {"exception": module.traceback}
        else:
            log, more = logger.info, {}
        log("task_module_broken", module=module.module, place=module.location, why=module.error, **more)
    return broken


def _make_app() -> Celery:
    # `celery -A` has the current folder on its path only while it finds this module; the jobs are there, too.
    if "" not in sys.path:
        sys.path.insert(0, "")
    # Workers, beat and Flower need no result backend, and must not need the database.
    celery_app = JobApp(
        "jobworker", backend=None if _PROCESS_NAME else "jobworker.worker.celery.result_backend:ResultBackend"
    )
    try:
        _configure(celery_app)
    except ConfigurationError as error:
        raise SystemExit(f"error: {error}") from None
    install_into_celery(celery_app, _settings)
    signals.import_modules.connect(_on_import_modules, sender=celery_app, weak=False)
    signals.setup_logging.connect(_on_setup_logging, weak=False)
    return celery_app


def _configure(celery_app: Celery) -> None:
    """Apply JobWorker's settings, overridden by `celeryconfig.py`."""
    ours = build_celery_settings(_settings)
    if importlib.util.find_spec("celeryconfig") is not None:
        # Celery puts added defaults before the values that it reads from a module.
        ours = merge_settings(ours, vars(importlib.import_module("celeryconfig")))
        celery_app.config_from_object("celeryconfig")
    celery_app.add_defaults(ours)


def _on_import_modules(**_: Any) -> None:
    try:
        app.broken_modules = load_tasks()
    except ConfigurationError as error:
        # Beat, Flower and remote control do without the jobs; a worker refused to start earlier.
        logger.warning("no_task_modules_here", why=str(error))


def _on_setup_logging(loglevel: int, logfile: str | None, **_: Any) -> None:
    """Configure logging as in every other process; Celery's own two log formats are not used."""
    # Not sys.stderr: in a child process of the pool that leads back into the log.
    stream = logging.open_lossy_stream(Path(logfile)) if logfile else sys.__stderr__
    logging.configure(_settings.log_format, loglevel, _PROCESS_NAME or "celery", stream)
    logging.log_process_start()
    if _PROCESS_NAME == "worker":
        output_capture.capture_output()  # Printed output of a job is part of its log.


if _PROCESS_NAME is not None:
    environment.hide()
    os.umask(0o077)  # Logs, files and results are private; an application that imports this module keeps its umask.
    logging.tolerate_output_errors()  # Before Celery prints its startup banner.
    logging.shorten_warnings()
    logging.configure(_settings.log_format, _settings.log_level, _PROCESS_NAME)  # Until Celery has read its options.
app = _make_app()
