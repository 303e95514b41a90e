"""The HTTP service: a WSGI application for any server, and the application that granian runs (`jobworker web`)."""

import functools
import importlib
import os

from flask import Flask

from jobworker import environment
from jobworker.api import documentation, problems, request_hooks
from jobworker.api.context import ApiContext
from jobworker.api.host_check import OriginPolicy
from jobworker.api.server import BodyLimits, RsgiApplication
from jobworker.clock import Clock, SystemClock
from jobworker.services.executions.message_revocation import revoke_cancelled
from jobworker.services.health import HealthChecker
from jobworker.settings import Settings
from jobworker.store.database.database import Database
from jobworker.store.database.read_limit import ReadLimit
from jobworker.telemetry import logging
from jobworker.telemetry.metrics import Metrics
from jobworker.transport.notifier import Notifier
from jobworker.up import addresses, discovery

#: Maximum processor time for the reads of a request (s): pages take milliseconds.
_MAX_READ_SECONDS = 2.0


def create_app(settings: Settings | None = None, clock: Clock | None = None) -> Flask:
    """Return the WSGI application. It connects to nothing before the first request, so a server may fork after this."""
    if settings is None:
        os.umask(0o077)  # With every server the database and its log are private.
        settings = discovery.read_settings()
        environment.hide()
        logging.tolerate_output_errors()
        logging.configure(settings.log_format, settings.log_level, "web")
        logging.log_process_start()
    clock = clock or SystemClock()
    database = Database(settings.database_url, clock=clock, read_limit=ReadLimit(_MAX_READ_SECONDS))
    app = Flask("jobworker", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body
    app.extensions["jobworker"] = ApiContext(
        settings=settings,
        database=database,
        clock=clock,
        notifier=Notifier(settings.redis_url, functools.partial(revoke_cancelled, database)),
        metrics=Metrics(),
        health=HealthChecker(database, settings, clock),
        origins=OriginPolicy(addresses.list_allowed_hosts(settings)),
    )
    request_hooks.register(app)
    documentation.register(app)
    # Registered last, because flask-smorest installs its own error handlers.
    problems.register(app)
    return app


def create_server() -> RsgiApplication:
    """Return the application of `app.py` for granian, which receives request bodies separately."""
    app: Flask = importlib.import_module("app").app
    context: ApiContext = app.extensions["jobworker"]
    return RsgiApplication(app, BodyLimits(context.settings.max_body), context.origins)
