"""`jobworker doctor`: problems of this installation, with their remedies."""

import textwrap

import click

from jobworker.cli import common, formatting
from jobworker.clock import SystemClock
from jobworker.domain.errors import ConfigurationError
from jobworker.services import doctor
from jobworker.services.doctor import DoctorFinding, DoctorLevel
from jobworker.telemetry import plain_text
from jobworker.worker import builtin
from jobworker.worker.celery.task import JobApp

_COLORS = {DoctorLevel.OK: "green", DoctorLevel.WARN: "yellow", DoctorLevel.FAIL: "red"}


@click.command("doctor")
@click.pass_context
def command(context: click.Context) -> None:
    """Check this installation; exit code 1 if something has to be fixed."""
    # Users' modules declare tasks in this app, as in a worker, so that doctor refuses what a worker refuses.
    builtin.register_jobs()
    app = JobApp("doctor", set_as_current=False)
    app.finalize()
    try:
        findings = doctor.examine_installation(common.start_command(), SystemClock())
    except ConfigurationError as error:
        findings = iter([DoctorFinding(DoctorLevel.FAIL, "settings", error.detail)])
    failed = False
    for finding in findings:
        failed = failed or finding.level is DoctorLevel.FAIL
        level = click.style(f"{finding.level:<5}", fg=_COLORS[finding.level])
        click.echo(f"{level} {finding.subject}: {formatting.format_message(finding.detail)}")
        if finding.more:
            click.echo(textwrap.indent(plain_text.escape(finding.more), "      "))
    context.exit(1 if failed else 0)
