"""Text that does nothing to a terminal: control characters of what others wrote are shown, and not obeyed.

Messages of jobs, errors and names reach terminals and logs. Control sequences among them could clear the screen, set
the clipboard or show other text than there is. Colours and weights, which our own output uses, pass.
"""

import io
import re
from typing import TextIO

#: All control characters but line feed and tab, and those that turn text around. `ESC [ … m` sets a colour.
_CONTROLS = re.compile(r"(?!\x1b\[[0-9;]{0,20}m)[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

#: What lines of one log message begin with after the first, so that none looks like another message.
_INDENT = "\n    "


def escape(text: str) -> str:
    r"""Return a text with its control characters spelt out, such as \x1b."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def indent(text: str) -> str:
    """Return a text as one message of a log."""
    return text.replace("\n", _INDENT)


class PlainTextStream(io.TextIOWrapper):
    """A text stream that escapes what is written to it."""

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        super().write(escape(text))
        return len(text)


def over(stream: TextIO) -> TextIO:
    """Return a stream that writes plain text to where this one does, which is not to be used any more."""
    encoding, errors, by_line = stream.encoding, stream.errors, getattr(stream, "line_buffering", False)
    return PlainTextStream(stream.detach(), encoding, errors, line_buffering=by_line)  # type: ignore[attr-defined]
