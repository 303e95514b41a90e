"""The `jobworker` command for operators. Each subcommand is a module of this package."""

import errno
import importlib
import os
import sys
from typing import Any, NoReturn

import click

from jobworker.domain.errors import JobWorkerError
from jobworker.telemetry import logging, plain_text

#: Exit code of a command with invalid arguments or settings.
EXIT_USAGE = 2

#: Exit code when the reader of the output has closed the pipe (`| head`): the code that a shell shows for SIGPIPE.
EXIT_PIPE_CLOSED = 141

#: Exit code when the output, or a file, cannot be written.
EXIT_WRITE_FAILED = 1

#: Errors of a full disk, or of this user's full quota.
_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)

#: Commands and their modules. Only the module of the given command is loaded, so that `up` and `web` stay small.
_COMMAND_MODULES = {
    "backup": "backup",
    "db": "db",
    "dead-letters": "dead_letters",
    "doctor": "doctor",
    "executions": "executions",
    "logs": "logs",
    "relay": "relay",
    "schedules": "schedules",
    "simulate": "simulate",
    "submit": "submit",
    "up": "up",
    "wait": "wait",
    "web": "web",
}


class _CommandGroup(click.Group):
    """A group that loads commands by name, and prints errors for people."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMAND_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMAND_MODULES:
            return None
        module = importlib.import_module(f"jobworker.cli.{_COMMAND_MODULES[cmd_name]}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raise an error for bytes that are not text: Python keeps them as half surrogates, which cannot be written."""
        for argument in args:
            try:
                argument.encode()
            except UnicodeEncodeError:
                shown = os.fsencode(argument).decode("ascii", "backslashreplace")
                raise click.UsageError(f"the argument {shown} is not UTF-8") from None
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except JobWorkerError as error:
            _exit_with_error(str(error), EXIT_USAGE)
        except BrokenPipeError:
            logging.tolerate_output_errors()  # Otherwise Python complains at the end about its buffered output.
            raise SystemExit(EXIT_PIPE_CLOSED) from None
        except OSError as error:
            if error.errno not in _DISK_FULL_ERRNOS:
                raise
            logging.tolerate_output_errors()
            _exit_with_error(
                f"{error.filename or 'the output or a file'} cannot be written: {error.strerror}", EXIT_WRITE_FAILED
            )


def _exit_with_error(error: str, code: int) -> NoReturn:
    click.echo(f"error: {plain_text.indent(plain_text.escape(error))}", err=True)
    raise SystemExit(code)


@click.group(cls=_CommandGroup)
@click.version_option(package_name="jobworker")
def main() -> None:
    """Submit jobs, follow their executions, and run JobWorker's processes."""
    os.umask(0o077)  # All files that commands create are private, also in a home that the user created.
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # Except a stream that a test has replaced, and None, which means that the stream was closed before.
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, plain_text.wrap_stream(stream))
            setattr(sys, f"__{name}__", getattr(sys, name))
    # As with `celery` and `flask`, the users' `tasks` package is found in the current folder.
    if "" not in sys.path:
        sys.path.insert(0, "")
