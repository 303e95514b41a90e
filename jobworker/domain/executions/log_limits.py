"""How much of what a job writes is kept, and what stands where something is missing."""

from dataclasses import dataclass

#: Longest line (bytes of UTF-8); what is longer is cut and says so.
MAX_LINE_BYTES = 16 * 1024

#: Most that is kept of one execution, all its attempts together; see `size`.
MAX_LOG_BYTES = 10 * 1024 * 1024

#: What a line takes besides its text: its time, its level, whose it is (bytes).
_LINE_OVERHEAD_BYTES = 32

#: Room for the words that mark a cut.
_CUT_MARK_BYTES = 64


@dataclass(frozen=True, slots=True)
class DroppedLines:
    """How many lines were not kept, and what they would have taken (see `size`)."""

    lines: int = 0
    size: int = 0

    def __add__(self, other: "DroppedLines") -> "DroppedLines":
        return DroppedLines(self.lines + other.lines, self.size + other.size)

    def __bool__(self) -> bool:
        return self.lines > 0

    def __str__(self) -> str:
        return f"{self.lines:,} {'line' if self.lines == 1 else 'lines'} ({self.size:,} bytes)"


def compute_line_size(line: str) -> int:
    """How much a line takes of `MAX_LOG`."""
    return _count_bytes(line) + _LINE_OVERHEAD_BYTES


def _count_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def cut_line(text: str) -> str:
    """The text, or as much of its beginning as fits into a line together with the words that it was cut."""
    if len(text) <= MAX_LINE_BYTES and _count_bytes(text) <= MAX_LINE_BYTES:
        return text
    # Not all of a text that may be as large as memory is turned into bytes for this.
    start = text[:MAX_LINE_BYTES].encode("utf-8", "surrogatepass")[: MAX_LINE_BYTES - _CUT_MARK_BYTES]
    kept = start.decode("utf-8", "ignore")
    return f"{kept} … [cut: {len(text):,} characters]"


def format_cut_notice(dropped: DroppedLines) -> str:
    """The last line of a log that has grown too long."""
    return f"[cut: this execution has written more than {MAX_LOG_BYTES:,} bytes; {dropped} after this were not kept]"


def format_gap_notice(dropped: DroppedLines) -> str:
    """The line in the place of lines that came faster than they could be sent."""
    return f"[lost: {dropped} that came faster than they could be sent, or while Redis was away]"
