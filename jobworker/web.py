"""The HTTP service: a WSGI application for any server, and around it what granian runs (`jobworker web`)."""

import functools
import importlib
import os

from flask import Flask

from jobworker import environment
from jobworker.api import documentation, problems, requests
from jobworker.api.origins import Origins
from jobworker.api.room import Room
from jobworker.api.server import Limits, Server
from jobworker.clock import Clock, SystemClock
from jobworker.services.health import Health
from jobworker.services.revoking import revoke_asked
from jobworker.settings import Settings
from jobworker.store.database import Database
from jobworker.store.read_limit import ReadLimit
from jobworker.telemetry import logging
from jobworker.telemetry.metrics import Metrics
from jobworker.transport.wake import Waker
from jobworker.up import addresses, running

#: What a request may read for (s of processor time): pages take milliseconds.
_LONGEST_READ = 2.0


def create_app(settings: Settings | None = None, clock: Clock | None = None) -> Flask:
    """The application. It connects to nothing before the first request, so a server may fork after this."""
    if settings is None:
        os.umask(0o077)  # Whatever server runs this: the database and its log are private.
        settings = running.read_settings()
        environment.hide()
        logging.outlive_output()
        logging.configure(settings.log_format, settings.log_level, "web")
        logging.log_start()
    clock = clock or SystemClock()
    database = Database(settings.database_url, clock=clock, read_limit=ReadLimit(_LONGEST_READ))
    app = Flask("jobworker", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    app.extensions["jobworker"] = Room(
        settings=settings,
        database=database,
        clock=clock,
        notifier=Waker(settings.redis_url, functools.partial(revoke_asked, database)),
        metrics=Metrics(),
        health=Health(database, settings, clock),
        origins=Origins(addresses.hosts(settings)),
    )
    requests.register(app)
    documentation.register(app)
    # Last: flask-smorest brings handlers of its own.
    problems.register(app)
    return app


def create_server() -> Server:
    """What granian runs: the application of `app.py` with its bodies received apart."""
    app: Flask = importlib.import_module("app").app
    room: Room = app.extensions["jobworker"]
    return Server(app, Limits(room.settings.max_body), room.origins)
