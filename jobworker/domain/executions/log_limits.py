"""Limits of stored job logs, and notices in the place of dropped lines."""

from dataclasses import dataclass

#: Maximum length of a line (bytes of UTF-8); longer lines are cut and marked.
MAX_LINE_BYTES = 16 * 1024

#: Maximum size of the stored log of an execution, all attempts together; see `compute_line_size`.
MAX_LOG_BYTES = 10 * 1024 * 1024

#: Size of a line's time, level and execution, which is added to its text (bytes).
_LINE_OVERHEAD_BYTES = 32

#: Space reserved for the notice of a cut (bytes).
_CUT_MARK_BYTES = 64


@dataclass(frozen=True, slots=True)
class DroppedLines:
    """The number of dropped lines, and their size (see `compute_line_size`)."""

    lines: int = 0
    size: int = 0

    def __add__(self, other: "DroppedLines") -> "DroppedLines":
        return DroppedLines(self.lines + other.lines, self.size + other.size)

    def __bool__(self) -> bool:
        return self.lines > 0

    def __str__(self) -> str:
        return f"{self.lines:,} {'line' if self.lines == 1 else 'lines'} ({self.size:,} bytes)"


def compute_line_size(line: str) -> int:
    """Return the size of a line, as counted in `MAX_LOG_BYTES`."""
    return _count_bytes(line) + _LINE_OVERHEAD_BYTES


def _count_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def cut_line(text: str) -> str:
    """Return the text, or its beginning with a cut notice if the text exceeds the maximum length of a line."""
    if len(text) <= MAX_LINE_BYTES and _count_bytes(text) <= MAX_LINE_BYTES:
        return text
    # A text may be as large as the memory, so only its beginning is encoded.
    start = text[:MAX_LINE_BYTES].encode("utf-8", "surrogatepass")[: MAX_LINE_BYTES - _CUT_MARK_BYTES]
    kept = start.decode("utf-8", "ignore")
    return f"{kept} … [cut: {len(text):,} characters]"


def format_cut_notice(dropped: DroppedLines) -> str:
    """Return the last line of a log that exceeds the maximum size."""
    return f"[cut: this execution has written more than {MAX_LOG_BYTES:,} bytes; {dropped} after this were not kept]"


def format_gap_notice(dropped: DroppedLines) -> str:
    """Return the line that replaces lines which were not sent: too many at a time, or without a connection to Redis."""
    return f"[lost: {dropped} that came faster than they could be sent, or while Redis was away]"
