"""Text that does nothing to a terminal: control characters of what others wrote are shown, and not obeyed.

Messages of jobs, errors and names reach terminals and logs. Control sequences among them could clear the screen, set
the clipboard, hide text or show other text than there is. Code that puts such text into its output escapes all of it;
streams escape once more, but for the few colours that our own output uses.
"""

import io
import re
from typing import Any, TextIO

#: All control characters but line feed and tab, other separators of lines, and what is invisible or turns text around.
_CONTROL_PATTERN = (
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
_CONTROLS = re.compile(_CONTROL_PATTERN)

#: The same without what click, structlog and honcho write for us: reset, bold, dim, and the colours red to cyan.
_CONTROLS_EXCEPT_COLORS = re.compile(rf"(?!\x1b\[(?:[012]|3[1-6](?:;1)?)m){_CONTROL_PATTERN}")

#: Four digits of hexadecimal UTF-16.
_UTF16_UNIT = re.compile("....")

#: What lines of one log message begin with after the first, so that none looks like another message.
_INDENT = "\n    "


def escape(text: str) -> str:
    r"""Return a text with its control characters spelt out, such as \x1b."""
    return _CONTROLS.sub(_escape_match, text)


def escape_json(text: str) -> str:
    r"""Return JSON with its control characters as \uXXXX, which means the same."""
    return _CONTROLS.sub(lambda found: _UTF16_UNIT.sub(r"\\u\g<0>", found[0].encode("utf-16-be").hex()), text)


def to_one_line(text: str) -> str:
    r"""Return a text in one line, with its control characters and line feeds spelt out, such as \n."""
    return escape(text).replace("\n", r"\n")


def indent(text: str) -> str:
    """Return a text as one message of a log."""
    return text.replace("\n", _INDENT)


def _escape_match(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class PlainTextStream(io.TextIOWrapper):
    """A text stream that escapes what is written to it, but for colours."""

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        super().write(_CONTROLS_EXCEPT_COLORS.sub(_escape_match, text))
        return len(text)


class UnescapedStream:
    """A text stream beneath the escaping, for a program that moves the cursor and escapes what others wrote itself."""

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
    """Return a stream that writes plain text to where this one does, which is not to be used any more."""
    encoding, errors, by_line = stream.encoding, stream.errors, getattr(stream, "line_buffering", False)
    return PlainTextStream(stream.detach(), encoding, errors, line_buffering=by_line)  # type: ignore[attr-defined]
