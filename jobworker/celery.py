"""The Celery app: what `celery -A jobworker worker | beat | flower | inspect …` finds."""

import importlib.util
import sys
from typing import Any

import structlog
from celery import Celery, signals

from jobworker import loading
from jobworker.loading import Broken
from jobworker.settings import Settings
from jobworker.transport.celery_settings import celery_settings
from jobworker.worker.setup import install
from jobworker.worker.task import JobTask

logger = structlog.get_logger(__name__)
_settings = Settings.from_environment()


def load_tasks() -> list[Broken]:
    """Import the users' job modules; those that are broken are logged and answered, the others work."""
    broken = loading.load(_settings.tasks)
    for module in broken:
        logger.error("task_module_broken", module=module.module, traceback=module.traceback)
    return broken


def _make_app() -> Celery:
    # `celery -A` looks into the current folder only while it finds this module; the jobs lie there too.
    if "" not in sys.path:
        sys.path.insert(0, "")
    made = Celery("jobworker", task_cls=JobTask)
    made.add_defaults(celery_settings(_settings))
    if importlib.util.find_spec("celeryconfig") is not None:
        made.config_from_object("celeryconfig")
    install(made, _settings)
    signals.import_modules.connect(_on_import_modules, sender=made, weak=False)
    return made


def _on_import_modules(**_: Any) -> None:
    load_tasks()


app = _make_app()
