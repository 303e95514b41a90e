"""`jobworker web`: the HTTP API on JOBWORKER_BIND."""

import os
import sys

import click

from jobworker.settings import Settings
from jobworker.up import addresses

#: One process with threads: requests are short, and each further process costs its memory.
_THREADS = 32

#: A client that keeps an event stream open does not hold up the stop for longer (s).
_KILL_TIMEOUT = 10


@click.command("web")
def command() -> None:
    """Serve the HTTP API and its docs (with granian; any WSGI server can run `app:app`)."""
    bind = addresses.parse(Settings.from_environment().bind, "JOBWORKER_BIND")
    addresses.require_free(bind, "JOBWORKER_BIND")
    options = {
        "interface": "wsgi",
        "http": "1",
        "host": bind.host,
        "port": bind.port,
        "workers": 1,
        "blocking-threads": _THREADS,
        "workers-kill-timeout": _KILL_TIMEOUT,
        "log-level": "error",
    }
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "granian", *given, "--no-ws", "app:app"])
