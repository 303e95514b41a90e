"""Log files with all output of the processes, one for each, rotated by size."""

import contextlib
from pathlib import Path

from jobworker.telemetry import logging

#: Size (bytes) above which a file is renamed `….log.1` and begun anew, and number of older files that are kept.
_MAX_SIZE, _MAX_BACKUPS = 10 * 1024 * 1024, 4


class LogFile:
    """The log file of one process.

    Lines that cannot be written are dropped, and the loss is noted when writing is possible again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)  # The folder may exist with another mode.
        self._stream = logging.open_lossy_stream(path)
        self._size = path.stat().st_size

    def write(self, line: str) -> None:
        """Append a line."""
        if self._size > _MAX_SIZE:
            self._rotate()
        self._stream.write(f"{line}\n")
        self._size += len(line) + 1

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _rotate(self) -> None:
        self._size = 0
        names = [
            self.path,
            *(self.path.with_name(f"{self.path.name}.{number}") for number in range(1, _MAX_BACKUPS + 1)),
        ]
        with contextlib.suppress(OSError):
            for older, newer in zip(reversed(names), [*reversed(names)][1:], strict=False):
                if newer.exists():
                    newer.replace(older)
            fresh = logging.open_lossy_stream(self.path)
            self._stream.close()
            self._stream = fresh
