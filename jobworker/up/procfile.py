"""The Procfile: the services, one `name: command` a line."""

import re
from pathlib import Path
from typing import NamedTuple

from honcho.environ import PROCFILE_LINE, parse_procfile

from jobworker.domain.errors import ConfigurationError

#: Syntax that only a shell understands; a command without it can replace the shell, so that signals reach it.
_QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*\"""")
_SHELL_SYNTAX = re.compile(r"[;&|<>()`\n]|^\s*\w+=")


class Service(NamedTuple):
    """A service: a process that is kept running."""

    name: str
    command: str

    @property
    def script(self) -> str:
        """The command as a script for a shell."""
        bare = _QUOTED.sub("", self.command)
        return self.command if _SHELL_SYNTAX.search(bare) else f"exec {self.command}"


def read(path: Path) -> list[Service]:
    """Return the services of a Procfile, in its order."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}); run `jobworker up` in the folder which has the Procfile"
        ) from error
    _check_lines(path, text)
    try:
        services = [Service(name, command) for name, command in parse_procfile(text).processes.items()]
    except AssertionError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if not services:
        raise ConfigurationError(f"{path} names no process; a line looks like `web: jobworker web`")
    return services


def _check_lines(path: Path, text: str) -> None:
    """Raise `ConfigurationError` for a line that the parser would silently ignore."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#") and not PROCFILE_LINE.match(line):
            raise ConfigurationError(f"{path}, line {number}: `{line.strip()}` does not look like `name: command`")
