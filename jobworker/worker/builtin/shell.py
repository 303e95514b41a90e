"""`shell.run`: a program of the worker's host, if the operator has allowed it."""

from collections.abc import Sequence
from typing import Any

from jobworker.declare import Abort, Context, job
from jobworker.domain.jobs.isolation import ProcessIsolation
from jobworker.settings import Settings
from jobworker.worker.celery.task import JobTask
from jobworker.worker.isolation import program_job
from jobworker.worker.isolation.program import Program, ResourceLimits
from jobworker.worker.isolation.program_job import ProgramLog

#: Environment of a program. It contains no variable of the worker, because these include secrets.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class CommandFailed(Exception):
    """The program ended with an exit code other than 0, or was killed."""


@job(name="shell.run", bind=True)
def shell_run(self: Any, context: Context, command: list[str], input: str = "") -> dict[str, int]:
    """Run a program that JOBWORKER_SHELL of the worker allows, without a shell.

    `command` is the program's absolute path and its arguments, `input` its standard input. Its output is the log. The
    result is {"exit_code": 0}; any other exit code is a failure.
    """
    _check_command(command, JobTask.get_job_runner().settings)
    policy = self.get_job_isolation()
    limits = (
        ResourceLimits(policy.memory, policy.cpu, policy.open_files)
        if isinstance(policy, ProcessIsolation)
        else ResourceLimits()
    )
    program = Program(
        command,
        stdin=input.encode(),
        environment={**_ENVIRONMENT, **program_job.make_variables(context)},
        limits=limits,
    )
    end = program_job.run(program, self, ProgramLog())
    if end.exit_code != 0:
        raise CommandFailed(f"{command[0]}: {end}")
    return {"exit_code": end.exit_code}


def _check_command(command: Sequence[Any], settings: Settings) -> None:
    if not command or not all(isinstance(word, str) and "\0" not in word for word in command):
        raise Abort("command must be a list of texts: the program's absolute path, and its arguments")
    if not settings.shell:
        raise Abort("shell.run is off on this worker; JOBWORKER_SHELL lists the programs that it may run")
    if command[0] not in settings.shell:
        raise Abort(f"{command[0]} is not one of the programs that JOBWORKER_SHELL allows on this worker")
