"""What `jobworker up` shows and keeps.

All output of the processes goes to files. The terminal gets the supervisor's own lines, records of WARNING and above,
and whatever is no record of a log, such as the traceback of a process that ends. Each line has the time and the process
it comes from, each process in its colour.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from honcho.colour import get_colours
from honcho.printer import Message, Printer

from jobworker.clock import Clock
from jobworker.telemetry import plain_text
from jobworker.up.log_files import LogFile

#: The supervisor's own lines.
SUPERVISOR_NAME = "up"

#: How records begin that are not for the terminal: in text and in JSON.
_BELOW_WARNING = re.compile(r"\d{4}-\d\d-\d\dT\S+ \[(debug|info) *\]" r'|\{(?=.*"level": "(debug|info)")')


class _CurrentStdout:
    """Standard output as it is at this moment: progress bars put themselves in its place."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()

    def isatty(self) -> bool:
        return sys.stdout.isatty()


class _OutputSource:
    """One process: its file, and whether its latest record was shown."""

    def __init__(self, file: LogFile, color: str | None) -> None:
        self.file = file
        self.color = color
        self._last_record_shown = True

    def is_shown(self, line: str) -> bool:
        """Whether a line is for the terminal. Those that are indented belong to the record before them."""
        if line[:1].strip():
            self._last_record_shown = _BELOW_WARNING.match(line) is None
        return self._last_record_shown


class ProcessOutput:
    """Keeps lines in `folder`, and prints those that matter."""

    def __init__(self, clock: Clock, names: Iterable[str], folder: Path) -> None:
        self.folder = folder
        self._clock = clock
        self._printer: Any = Printer(output=_CurrentStdout(), width=max(map(len, (SUPERVISOR_NAME, *names))))
        self._palette = get_colours()
        self._sources: dict[str, _OutputSource] = {}

    def write_lines(self, name: str, lines: Iterable[bytes | str]) -> None:
        """Keep what `name` wrote; print it if it matters."""
        source = self._get_source(name)
        for given in lines:
            text = given.decode(errors="backslashreplace") if isinstance(given, bytes) else given
            line = plain_text.escape(text)
            source.file.write(line)
            if source.is_shown(line):
                self._print(name, source, line)

    def write_message(self, text: str) -> None:
        """Print what the supervisor has to say, and keep it with the time."""
        source = self._get_source(SUPERVISOR_NAME)
        source.file.write(f"{self._clock.now().isoformat()} {text}")
        self._print(SUPERVISOR_NAME, source, text)

    def get_log_path(self, name: str) -> Path:
        """Where all lines of a process are."""
        return self._get_source(name).file.path

    def close(self) -> None:
        """Close the files."""
        for source in self._sources.values():
            source.file.close()

    def _get_source(self, name: str) -> _OutputSource:
        if name not in self._sources:
            colour = None if name == SUPERVISOR_NAME else next(self._palette)
            self._sources[name] = _OutputSource(LogFile(self.folder / f"{name}.log"), colour)
        return self._sources[name]

    def _print(self, name: str, source: _OutputSource, line: str) -> None:
        self._printer.write(
            Message("line", plain_text.escape(line), self._clock.now().astimezone(), name, source.color)
        )
