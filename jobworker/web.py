"""The HTTP service as a WSGI application: `granian --interface wsgi app:app`."""

import functools

from flask import Flask

from jobworker.api import documentation, problems, requests
from jobworker.api.room import Room
from jobworker.clock import Clock, SystemClock
from jobworker.services.health import Health
from jobworker.services.revoking import revoke_asked
from jobworker.settings import Settings
from jobworker.store.database import Database
from jobworker.telemetry import logging
from jobworker.telemetry.metrics import Metrics
from jobworker.transport.wake import Waker


def create_app(settings: Settings | None = None, clock: Clock | None = None) -> Flask:
    """The application. It connects to nothing before the first request, so a server may fork after this."""
    if settings is None:
        settings = Settings.from_environment()
        logging.outlive_output()
        logging.configure(settings.log_format, settings.log_level, "web")
        logging.log_start()
    clock = clock or SystemClock()
    database = Database(settings.database_url)
    app = Flask("jobworker", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    app.extensions["jobworker"] = Room(
        settings=settings,
        database=database,
        clock=clock,
        waker=Waker(settings.redis_url, functools.partial(revoke_asked, database)),
        metrics=Metrics(),
        health=Health(database, settings, clock),
    )
    requests.register(app)
    documentation.register(app)
    # Last: flask-smorest brings handlers of its own.
    problems.register(app)
    return app
