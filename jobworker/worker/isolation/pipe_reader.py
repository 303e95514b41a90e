"""What comes out of a program's pipes: lines of a log and messages. Bounded, however much it is."""

import json
from collections.abc import Iterator
from typing import Any

#: Longest line (bytes); the rest of it becomes a line of its own.
MAX_LINE_SIZE = 16 * 1024

#: So much of what one program prints is kept (bytes). The rest is read, so that the program does not wait, and counted.
MAX_OUTPUT_SIZE = 10 * 1024 * 1024

#: What a line costs beside its text (bytes): one that holds nothing is still a line in the database.
_LINE_OVERHEAD = 128

#: Longest message (bytes); what is longer is none.
MAX_MESSAGE_SIZE = 1024 * 1024


class LineSplitter:
    """Makes lines of the pieces that come out of a pipe."""

    def __init__(self, max_size: int = MAX_OUTPUT_SIZE) -> None:
        self._remaining_size = max_size
        self._partial_line = b""
        self._dropped_bytes = 0
        self._dropped_lines = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """The lines that are complete with `piece`."""
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
        """The last line if nothing ended it, and how much is missing."""
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
    """Makes JSON objects of the pieces that come out of a pipe. What is none is passed over: users' code runs there."""

    def __init__(self) -> None:
        self._partial_line = b""
        self._too_long = False

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The messages that are complete with `piece`."""
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
