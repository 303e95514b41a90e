"""Readers of a program's pipes: log lines and messages, limited in size."""

import json
from collections.abc import Iterator
from typing import Any

#: Maximum length of a line (bytes); the rest of it becomes another line.
MAX_LINE_SIZE = 16 * 1024

#: Maximum stored output of one program (bytes). The rest is read, so that the program does not block, and counted.
MAX_OUTPUT_SIZE = 10 * 1024 * 1024

#: Overhead of a line beside its text (bytes), because an empty line is still a row in the database.
_LINE_OVERHEAD = 128

#: Maximum length of a message (bytes); longer messages are ignored.
MAX_MESSAGE_SIZE = 1024 * 1024


class LineSplitter:
    """A splitter of pipe output into lines."""

    def __init__(self, max_size: int = MAX_OUTPUT_SIZE) -> None:
        self._remaining_size = max_size
        self._partial_line = b""
        self._dropped_bytes = 0
        self._dropped_lines = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yield the lines that `piece` completes."""
        if self._remaining_size <= 0:
            self._count_dropped(piece)
            return
        *lines, self._partial_line = (self._partial_line + piece).split(b"\n")
        for line in lines:
            yield from self._emit(line)
        if len(self._partial_line) > MAX_LINE_SIZE:
            unfinished, self._partial_line = self._partial_line, b""
            yield from self._emit(unfinished)

    def finish(self) -> Iterator[str]:
        """Yield the last line if it has no line feed, and a line on the dropped output."""
        if self._partial_line:
            yield from self._emit(self._partial_line)
        if self._dropped_bytes:
            yield f"[{self._dropped_bytes} more bytes, {self._dropped_lines} lines, were printed and are not kept]"

    def _emit(self, line: bytes) -> Iterator[str]:
        for start in range(0, len(line) or 1, MAX_LINE_SIZE):
            part = line[start : start + MAX_LINE_SIZE]
            if self._remaining_size <= 0:
                self._count_dropped(part + b"\n")
            else:
                self._remaining_size -= len(part) + _LINE_OVERHEAD
                yield part.decode("utf-8", "replace").rstrip("\r")

    def _count_dropped(self, piece: bytes) -> None:
        self._dropped_bytes += len(piece)
        self._dropped_lines += piece.count(b"\n")


class MessageParser:
    """A parser of pipe output into JSON objects. Anything else is ignored, because users' code runs in the program."""

    def __init__(self) -> None:
        self._partial_line = b""
        self._too_long = False

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """Yield the messages that `piece` completes."""
        *lines, self._partial_line = (self._partial_line + piece).split(b"\n")
        for line in lines:
            if not self._too_long:
                yield from _parse_message(line)
            self._too_long = False
        if len(self._partial_line) > MAX_MESSAGE_SIZE:
            self._partial_line, self._too_long = b"", True


def _parse_message(line: bytes) -> Iterator[dict[str, Any]]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return
    if isinstance(message, dict):
        yield message
