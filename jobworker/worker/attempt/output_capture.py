"""Capture of a worker's `sys.stdout` and `sys.stderr`: each printed line becomes a log line."""

import codecs
import io
import logging
import sys
import threading
from collections.abc import Mapping

#: The logger and the level of each stream's lines, also for programs that a job starts.
STREAM_LEVELS: Mapping[str, int] = {"stdout": logging.INFO, "stderr": logging.WARNING}

#: Length at which a line without a line end is split (characters).
_MAX_LINE_LENGTH = 64 * 1024


class _PartialLine(threading.local):
    """The text that a thread has printed after the last line end."""

    text = ""
    is_logging = False


class LoggingTextStream(io.TextIOBase):
    """A text stream that logs each line. It cannot be closed, because later jobs print to it, too."""

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
        """Log the lines that this text completes; return the length of `text`."""
        if self._partial_line.is_logging:
            return len(text)  # A failing handler prints the reason, which must not be logged again.
        *lines, partial = (self._partial_line.text + text).split("\n")
        while len(partial) > _MAX_LINE_LENGTH:
            lines.append(partial[:_MAX_LINE_LENGTH])
            partial = partial[_MAX_LINE_LENGTH:]
        self._partial_line.text = partial
        self._log(lines)
        return len(text)

    def flush_line(self) -> None:
        """Log the text that this thread has printed after the last line end."""
        partial, self._partial_line.text = self._partial_line.text, ""
        self._log([partial] if partial else [])

    def _log(self, lines: list[str]) -> None:
        self._partial_line.is_logging = True
        try:
            for line in lines:
                # Progress bars return to the beginning of the line; only the final text is logged.
                self._logger.log(self._level, "%s", line.rstrip("\r").rpartition("\r")[2])
        finally:
            self._partial_line.is_logging = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def reconfigure(self, **_: object) -> None:
        """Do nothing: the stream remains UTF-8 and line-buffered."""

    def close(self) -> None:
        """Do nothing: the stream stays open."""


class _LoggingByteStream(io.BufferedIOBase):
    """The byte stream below a `LoggingTextStream`."""

    def __init__(self, text: LoggingTextStream) -> None:
        super().__init__()
        self._text = text
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, data: object) -> int:
        """Write these bytes as UTF-8; show invalid bytes as escapes."""
        piece = bytes(data)  # type: ignore[call-overload]
        self._text.write(self._decoder.decode(piece))
        return len(piece)

    def writable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Do nothing: the stream stays open."""


_streams: dict[str, LoggingTextStream] = {}


def capture_output() -> None:
    """Replace the streams of this process by streams that log."""
    for name in STREAM_LEVELS:
        _streams[name] = LoggingTextStream(name)
    restore_streams()


def restore_streams() -> None:
    """Restore the streams that a job has replaced; does nothing without an earlier `capture_output`."""
    for name, stream in _streams.items():
        if getattr(sys, name) is not stream:
            setattr(sys, name, stream)


def flush_lines() -> None:
    """Log the text that this thread has printed after the last line end."""
    for stream in _streams.values():
        stream.flush_line()
