"""`jobworker relay`: between the database and Redis."""

import signal
import threading

import click

from jobworker.cli import common
from jobworker.clock import SystemClock
from jobworker.relay.loop import Relay
from jobworker.telemetry import logging


@click.command("relay")
def command() -> None:
    """Turn rows into messages and workers' reports into history, until SIGTERM or Ctrl-C."""
    settings = common.prepare()
    logging.configure(settings.log_format, settings.log_level, "relay")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with common.database(settings) as database:
        Relay(database, settings.redis_url, SystemClock(), settings).run(stop)
