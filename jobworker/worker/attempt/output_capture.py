"""`sys.stdout` and `sys.stderr` of a worker: what is printed becomes lines of the log, one for each line."""

import codecs
import io
import logging
import sys
import threading
from collections.abc import Mapping

#: The logger of each stream, and the level of its lines; the same for programs that a job starts.
STREAM_LEVELS: Mapping[str, int] = {"stdout": logging.INFO, "stderr": logging.WARNING}

#: A line without an end is one after so many characters.
_MAX_LINE_LENGTH = 64 * 1024


class _PartialLine(threading.local):
    """What a thread has printed of a line that has not ended."""

    text = ""
    is_logging = False


class LoggingTextStream(io.TextIOBase):
    """A text stream of which each line is logged. It cannot be closed: later jobs print to it, too."""

    encoding = "utf-8"
    errors = "backslashreplace"
    mode = "w"
    line_buffering = True
    write_through = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = f"<{name}>"
        self.buffer = _LoggingByteStream(self)
        self._logger = logging.getLogger(name)
        self._level = STREAM_LEVELS[name]
        self._partial_line = _PartialLine()

    def write(self, text: str) -> int:
        """Log the lines that this ends; return the length of `text`."""
        if self._partial_line.is_logging:
            return len(text)  # A handler that fails prints why: it must not be asked to log that.
        *lines, rest = (self._partial_line.text + text).split("\n")
        while len(rest) > _MAX_LINE_LENGTH:
            lines.append(rest[:_MAX_LINE_LENGTH])
            rest = rest[_MAX_LINE_LENGTH:]
        self._partial_line.text = rest
        self._log(lines)
        return len(text)

    def flush_line(self) -> None:
        """Log what this thread has printed without the end of a line."""
        rest, self._partial_line.text = self._partial_line.text, ""
        self._log([rest] if rest else [])

    def _log(self, lines: list[str]) -> None:
        self._partial_line.is_logging = True
        try:
            for line in lines:
                # Progress bars go back to the beginning of the line: what stands there in the end is told.
                self._logger.log(self._level, "%s", line.rstrip("\r").rpartition("\r")[2])
        finally:
            self._partial_line.is_logging = False

    def writable(self) -> bool:
        """It is."""
        return True

    def reconfigure(self, **_: object) -> None:
        """Stay as it is: UTF-8, line by line."""

    def close(self) -> None:
        """Stay open."""


class _LoggingByteStream(io.BufferedIOBase):
    """The bytes below a `PrintedLines`."""

    def __init__(self, text: LoggingTextStream) -> None:
        super().__init__()
        self._text = text
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, data: object) -> int:
        """Write what is UTF-8 among these bytes, and show the others."""
        piece = bytes(data)  # type: ignore[call-overload]
        self._text.write(self._decoder.decode(piece))
        return len(piece)

    def writable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Stay open."""


_streams: dict[str, LoggingTextStream] = {}


def capture_output() -> None:
    """Let what this process prints from now on be logged."""
    for name in STREAM_LEVELS:
        _streams[name] = LoggingTextStream(name)
    restore_streams()


def restore_streams() -> None:
    """Put these streams back where a job has put others; nothing without `capture` before."""
    for name, stream in _streams.items():
        if getattr(sys, name) is not stream:
            setattr(sys, name, stream)


def flush_lines() -> None:
    """Log what this thread has printed without the end of a line."""
    for stream in _streams.values():
        stream.flush_line()
