"""`jobworker relay`: the process between the database and Redis."""

import signal
import threading

import click
import structlog

from jobworker import celery, environment, loading
from jobworker.cli import common
from jobworker.clock import SystemClock
from jobworker.domain.errors import ConfigurationError
from jobworker.relay.loop import Relay
from jobworker.services.jobs import task_catalog
from jobworker.settings import Settings
from jobworker.store.database.database import Database
from jobworker.telemetry import logging
from jobworker.transport.task_catalog import describe_tasks

logger = structlog.get_logger(__name__)


@click.command("relay")
def command() -> None:
    """Dispatch executions, evaluate schedules and record workers' events, until SIGTERM or Ctrl-C."""
    environment.hide()
    logging.tolerate_output_errors()
    settings = common.start_command()
    logging.configure(settings.log_format, settings.log_level, "relay")
    logging.log_process_start()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with common.open_database(settings) as database:
        _register_tasks(database, settings)
        Relay(database, settings.redis_url, SystemClock(), settings).run(stop)


def _register_tasks(database: Database, settings: Settings) -> None:
    """Register the tasks of the code here, so that the first submission need not wait for a worker."""
    try:
        version = settings.code_version or loading.compute_source_digest(settings.tasks)
        celery.load_tasks()
    except ConfigurationError as error:
        logger.info("no_task_modules_here", why=str(error))
        return
    task_catalog.register_unannounced_tasks(database, SystemClock(), describe_tasks(celery.app), version)
