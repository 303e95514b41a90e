"""`jobworker web`: the HTTP API on JOBWORKER_BIND."""

import importlib.util
import os
import sys

import click

from jobworker.cli import common
from jobworker.domain.errors import ConfigurationError
from jobworker.up import addresses

#: Timeout of the stop, because clients may keep event streams open (s).
_KILL_TIMEOUT_SECONDS = 10


#: `python -m granian`, whose main process hides its environment as the other processes do.
_GRANIAN_SCRIPT = (
    "from jobworker import environment; environment.hide(); from granian.cli import entrypoint; entrypoint()"
)


@click.command("web")
def command() -> None:
    """Serve the HTTP API and its docs (with granian; other WSGI servers can run `app:app` behind a buffering proxy)."""
    settings = common.start_command()
    bind = addresses.parse(settings.bind, "JOBWORKER_BIND")
    addresses.require_hosts(settings)
    addresses.require_free(bind, "JOBWORKER_BIND")
    if importlib.util.find_spec("app") is None:
        raise ConfigurationError("there is no app.py here; run jobworker web in the folder that has it")
    with common.open_database(settings):
        pass  # Problems of the database are reported here in a sentence; the server would show a traceback.
    options = {
        "interface": "rsgi",
        "http": "1",
        "host": bind.host,
        "port": bind.port,
        "workers": 1,
        "workers-kill-timeout": _KILL_TIMEOUT_SECONDS,
        "log-level": "error",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    os.execv(
        sys.executable,
        [sys.executable, "-c", _GRANIAN_SCRIPT, *arguments, "--no-ws", "--factory", "jobworker.web:create_server"],
    )
