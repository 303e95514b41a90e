"""What others wrote does nothing to a terminal, and looks like nothing else in a log."""

import io
import logging

import pytest
import structlog

from jobworker.telemetry import logging as ours
from jobworker.telemetry import plain_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, tab\tand\nlines", "plain, tab\tand\nlines"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
        ("\x1b[2Jgone\r", r"\x1b[2Jgone\r"),
        ("\x9b2J \x7f \0", r"\x9b2J \x7f \x00"),
        ("user\u202etxt.exe", r"user\u202etxt.exe"),
        ("Grüße, 漢字, 🎉", "Grüße, 漢字, 🎉"),
    ],
)
def test_control_characters_are_spelt_out(text: str, shown: str) -> None:
    assert plain_text.escape(text) == shown
    stream = plain_text.over(io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert stream.write(text) == len(text)
    stream.flush()
    assert stream.buffer.getvalue().decode() == shown  # type: ignore[attr-defined]


def test_a_message_of_several_lines_is_one_message_of_the_log() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        ours.configure("text", "INFO", "worker", stream)
        logging.getLogger("jobs.any").info("first\n2026-03-02 12:00:00 [critical] forged")
    finally:
        root.handlers[:], _ = before
        root.setLevel(before[1])
        structlog.reset_defaults()
    assert [line for line in stream.getvalue().splitlines() if not line.startswith("    ")][1:] == []
