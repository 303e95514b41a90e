"""How much of what a job writes is kept, and what stands where something is missing."""

from dataclasses import dataclass

#: Longest line (bytes of UTF-8); what is longer is cut and says so.
MAX_LINE = 16 * 1024

#: Most that is kept of one execution, all its attempts together; see `size`.
MAX_LOG = 10 * 1024 * 1024

#: What a line takes besides its text: its time, its level, whose it is (bytes).
_BESIDES = 32

#: Room for the words that mark a cut.
_MARK = 64


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many lines were not kept, and what they would have taken (see `size`)."""

    lines: int = 0
    size: int = 0

    def __add__(self, other: "Dropped") -> "Dropped":
        return Dropped(self.lines + other.lines, self.size + other.size)

    def __bool__(self) -> bool:
        return self.lines > 0

    def __str__(self) -> str:
        return f"{self.lines:,} {'line' if self.lines == 1 else 'lines'} ({self.size:,} bytes)"


def size(line: str) -> int:
    """How much a line takes of `MAX_LOG`."""
    return _length(line) + _BESIDES


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def cut_line(text: str) -> str:
    """The text, or as much of its beginning as fits into a line together with the words that it was cut."""
    if len(text) <= MAX_LINE and _length(text) <= MAX_LINE:
        return text
    # Not all of a text that may be as large as memory is turned into bytes for this.
    start = text[:MAX_LINE].encode("utf-8", "surrogatepass")[: MAX_LINE - _MARK]
    kept = start.decode("utf-8", "ignore")
    return f"{kept} … [cut: {len(text):,} characters]"


def full(dropped: Dropped) -> str:
    """The last line of a log that has grown too long."""
    return f"[cut: this execution has written more than {MAX_LOG:,} bytes; {dropped} after this were not kept]"


def gap(dropped: Dropped) -> str:
    """The line in the place of lines that came faster than they could be sent."""
    return f"[lost: {dropped} that came faster than they could be sent, or while Redis was away]"
