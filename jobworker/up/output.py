"""Output of `jobworker up`, on the terminal and in files.

All output of the processes goes to files. The terminal shows the supervisor's own messages, log records of WARNING and
above, and output that is not a log record, such as the traceback of a process that ends. Each line has the time and the
name of its process, and each process its color.
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

#: Name of the supervisor in the output.
SUPERVISOR_NAME = "up"

#: Beginning of records that the terminal does not show: in text and in JSON.
_BELOW_WARNING = re.compile(r"\d{4}-\d\d-\d\dT\S+ \[(debug|info) *\]" r'|\{(?=.*"level": "(debug|info)")')


class _CurrentStdout:
    """The present standard output, which progress bars replace."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()

    def isatty(self) -> bool:
        return sys.stdout.isatty()


class _OutputSource:
    """The output of one process: its file, and whether its latest record was shown."""

    def __init__(self, file: LogFile, color: str | None) -> None:
        self.file = file
        self.color = color
        self._last_record_shown = True

    def is_shown(self, line: str) -> bool:
        """Return whether the terminal shows a line. Indented lines belong to the record before them."""
        if line[:1].strip():
            self._last_record_shown = _BELOW_WARNING.match(line) is None
        return self._last_record_shown


class ProcessOutput:
    """The output of all processes: written to files in `folder`, and printed if it matters."""

    def __init__(self, clock: Clock, names: Iterable[str], folder: Path) -> None:
        self.folder = folder
        self._clock = clock
        self._printer: Any = Printer(output=_CurrentStdout(), width=max(map(len, (SUPERVISOR_NAME, *names))))
        self._palette = get_colours()
        self._sources: dict[str, _OutputSource] = {}

    def write_lines(self, name: str, lines: Iterable[bytes | str]) -> None:
        """Write the lines of a process to its file; print those that matter."""
        source = self._get_source(name)
        for raw_line in lines:
            text = raw_line.decode(errors="backslashreplace") if isinstance(raw_line, bytes) else raw_line
            line = plain_text.escape(text)
            source.file.write(line)
            if source.is_shown(line):
                self._print(name, source, line)

    def write_message(self, text: str) -> None:
        """Print a message of the supervisor, and write it to its file with the time."""
        source = self._get_source(SUPERVISOR_NAME)
        source.file.write(f"{self._clock.now().isoformat()} {text}")
        self._print(SUPERVISOR_NAME, source, text)

    def get_log_path(self, name: str) -> Path:
        """Return the path of a process's log file."""
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
