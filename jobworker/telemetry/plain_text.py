"""Text that is safe on a terminal: control characters in text from elsewhere are shown, not executed.

Messages of jobs, errors and names reach terminals and logs. Control sequences in them could clear the screen, set the
clipboard, hide text or show false text. Code that puts such text into its output escapes it completely; streams escape
once more, except for the few colors that JobWorker's own output uses.
"""

import io
import re
from typing import Any, TextIO

#: All control characters but line feed and tab, other line separators, and characters that are invisible or change the
#: direction of text.
_CONTROL_PATTERN = (
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
_CONTROLS = re.compile(_CONTROL_PATTERN)

#: All of these except the sequences that click, structlog and honcho write: reset, bold, dim, and the colors red to
#: cyan.
_CONTROLS_EXCEPT_COLORS = re.compile(rf"(?!\x1b\[(?:[012]|3[1-6](?:;1)?)m){_CONTROL_PATTERN}")

#: Four hexadecimal digits of UTF-16.
_UTF16_UNIT = re.compile("....")

#: Beginning of the lines of a log message after its first, so that none looks like another message.
_INDENT = "\n    "


def escape(text: str) -> str:
    r"""Return a text with its control characters escaped, such as \x1b."""
    return _CONTROLS.sub(_escape_match, text)


def escape_json(text: str) -> str:
    r"""Return JSON with its control characters as \uXXXX, which is equivalent."""
    return _CONTROLS.sub(lambda match: _UTF16_UNIT.sub(r"\\u\g<0>", match[0].encode("utf-16-be").hex()), text)


def to_one_line(text: str) -> str:
    r"""Return a text in one line, with its control characters and line feeds escaped, such as \n."""
    return escape(text).replace("\n", r"\n")


def indent(text: str) -> str:
    """Return a text as one message of a log."""
    return text.replace("\n", _INDENT)


def _escape_match(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class PlainTextStream(io.TextIOWrapper):
    """A text stream that escapes the text written to it, except for colors."""

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        super().write(_CONTROLS_EXCEPT_COLORS.sub(_escape_match, text))
        return len(text)


class UnescapedStream:
    """A text stream without escaping, for a program that moves the cursor and itself escapes text from elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text as it is; return its length."""
        if isinstance(self._stream, PlainTextStream):
            return io.TextIOWrapper.write(self._stream, text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def wrap_stream(stream: TextIO) -> TextIO:
    """Return a stream that writes plain text to the target of `stream`, which must not be used any more."""
    encoding, errors, by_line = stream.encoding, stream.errors, getattr(stream, "line_buffering", False)
    return PlainTextStream(stream.detach(), encoding, errors, line_buffering=by_line)  # type: ignore[attr-defined]
