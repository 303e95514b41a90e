"""`jobworker up`: all services on one machine."""

import click

from jobworker import environment
from jobworker.clock import SystemClock
from jobworker.settings import Settings
from jobworker.telemetry import logging
from jobworker.up.launch import run_all_services


@click.command("up")
@click.option("--demo", is_flag=True, help="Submit the three example jobs and show their progress.")
@click.pass_context
def command(context: click.Context, demo: bool) -> None:
    """Run all services of the Procfile here, with an embedded Redis and database, until Ctrl-C."""
    environment.hide()
    logging.tolerate_output_errors()
    context.exit(run_all_services(Settings.from_environment(), SystemClock(), demo))
