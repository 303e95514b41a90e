"""The Celery app: what `celery -A jobworker worker | beat | flower | inspect …` finds."""

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

#: Which lasting process this is; None: a command that is over soon.
_PROCESS_NAME = next((word for word in sys.argv if word in ("worker", "beat", "flower")), None)


def _read_settings() -> Settings:
    try:
        return discovery.read_settings()
    except ConfigurationError as error:
        raise SystemExit(f"error: {error}") from None


_settings = _read_settings()


def load_tasks() -> list[BrokenModule]:
    """Import the users' job modules; those that are broken are logged and answered, the others work."""
    app.finalize()  # From here on each task is made where its module declares it, and refused there.
    broken = loading.load_modules(_settings.tasks)
    for module in broken:
        # Each process imports them; those that run no jobs do without, and the relay hears of it from the workers.
        if _PROCESS_NAME == "worker":
            tell, more = logger.error, {"exception": module.traceback}
        else:
            tell, more = logger.info, {}
        tell("task_module_broken", module=module.module, place=module.location, why=module.error, **more)
    return broken


def _make_app() -> Celery:
    # `celery -A` looks into the current folder only while it finds this module; the jobs lie there too.
    if "" not in sys.path:
        sys.path.insert(0, "")
    # A worker has no use for one, and must not need the database.
    made = JobApp(
        "jobworker", backend=None if _PROCESS_NAME else "jobworker.worker.celery.result_backend:ResultBackend"
    )
    try:
        _configure(made)
    except ConfigurationError as error:
        raise SystemExit(f"error: {error}") from None
    install_into_celery(made, _settings)
    signals.import_modules.connect(_on_import_modules, sender=made, weak=False)
    signals.setup_logging.connect(_on_setup_logging, weak=False)
    return made


def _configure(celery_app: Celery) -> None:
    """What JobWorker needs, with what `celeryconfig.py` says in its place."""
    ours = build_celery_settings(_settings)
    if importlib.util.find_spec("celeryconfig") is not None:
        # Celery itself puts defaults that are added before what it reads from a module.
        ours = merge_settings(ours, vars(importlib.import_module("celeryconfig")))
        celery_app.config_from_object("celeryconfig")
    celery_app.add_defaults(ours)


def _on_import_modules(**_: Any) -> None:
    try:
        app.broken_modules = load_tasks()
    except ConfigurationError as error:
        # Beat, Flower and remote control do without the jobs; a worker has refused to start before.
        logger.warning("no_task_modules_here", why=str(error))


def _on_setup_logging(loglevel: int, logfile: str | None, **_: Any) -> None:
    """The same logs as every other process; Celery's own two log formats are not used."""
    # Not sys.stderr: in a child of the pool that leads back into the log.
    stream = logging.open_lossy_stream(Path(logfile)) if logfile else sys.__stderr__
    logging.configure(_settings.log_format, loglevel, _PROCESS_NAME or "celery", stream)
    logging.log_process_start()
    if _PROCESS_NAME == "worker":
        output_capture.capture_output()  # What a job prints is part of its log.


if _PROCESS_NAME is not None:
    environment.hide()
    os.umask(0o077)  # Logs, files and results are private; an application that imports this keeps its own umask.
    logging.tolerate_output_errors()  # Before Celery prints what it starts.
    logging.shorten_warnings()
    logging.configure(_settings.log_format, _settings.log_level, _PROCESS_NAME)  # Until Celery has read its options.
app = _make_app()
