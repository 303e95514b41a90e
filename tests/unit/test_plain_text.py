"""Untrusted text has no effect on a terminal, and cannot forge records of a log."""

import io
import json
import logging
import re

import pytest
import structlog

from jobworker.telemetry import logging as ours
from jobworker.telemetry import plain_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, tab\tand\nlines", "plain, tab\tand\nlines"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b[8mhidden", r"\x1b[8mhidden"),
        ("\u061c\u2028\u2029\u200b\u200f", r"\u061c\u2028\u2029\u200b\u200f"),
        ("\u2060\u206f\ufeff\U000e0000\U000e007f", r"\u2060\u206f\ufeff\U000e0000\U000e007f"),
        ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
        ("\x1b[2Jgone\r", r"\x1b[2Jgone\r"),
        ("\x9b2J \x7f \0", r"\x9b2J \x7f \x00"),
        ("user\u202etxt.exe", r"user\u202etxt.exe"),
        ("Grüße, 漢字, 🎉", "Grüße, 漢字, 🎉"),
    ],
)
def test_control_characters_escaped(text: str, shown: str) -> None:
    assert plain_text.escape(text) == shown
    assert json.loads(plain_text.escape_json(json.dumps(text, ensure_ascii=False))) == text


def _write_to_stream(text: str) -> str:
    stream = plain_text.wrap_stream(io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert stream.write(text) == len(text)
    stream.flush()
    written: bytes = stream.buffer.getvalue()  # type: ignore[attr-defined]
    return written.decode()


@pytest.mark.parametrize("code", ["0", "1", "2", "31", "36", "33;1"])
def test_stream_keeps_color_sequences(code: str) -> None:
    assert _write_to_stream(f"\x1b[{code}mtext") == f"\x1b[{code}mtext"


@pytest.mark.parametrize("code", ["8m", "30m", "31;8m", "38;5;1m", "2J", "m"])
def test_stream_escapes_other_sequences(code: str) -> None:
    assert _write_to_stream(f"\x1b[{code}text\u2028") == rf"\x1b[{code}text\u2028"


def test_unescaped_stream_writes_cursor_sequences() -> None:
    stream = plain_text.wrap_stream(io.TextIOWrapper(io.BytesIO(), "utf-8"))
    beneath = plain_text.UnescapedStream(stream)
    assert beneath.write("\x1b[2K") == 4
    beneath.flush()
    assert stream.buffer.getvalue() == b"\x1b[2K"  # type: ignore[attr-defined]


def test_to_one_line_escapes_line_breaks() -> None:
    assert plain_text.to_one_line("a\nb\r\x1b[31m\u2028c") == r"a\nb\r\x1b[31m\u2028c"


_FORGED = "2026-03-02 12:00:00 [critical] forged \x1b[31m\x7f"


def _raise_forged() -> None:
    raise ValueError(f"first\n{_FORGED}")


def _log_forged(place: str) -> None:
    logger = logging.getLogger("jobs.any")
    match place:
        case "message":
            logger.info("first\n%s", _FORGED)
        case "exception":
            try:
                _raise_forged()
            except ValueError:
                logger.exception("failed")
        case "logger":
            logging.getLogger(f"first\n{_FORGED}").info("logged")
        case "field":
            structlog.get_logger("jobs.any").info("failed", exception=f"first\n{_FORGED}", why=f"a\n{_FORGED}")
        case "stack":
            logger.info("logged", stack_info=True)


def _capture_log(log_format: str, place: str) -> str:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        ours.configure(log_format, "INFO", "worker", stream)
        _log_forged(place)
    finally:
        root.handlers[:], _ = before
        root.setLevel(before[1])
        structlog.reset_defaults()
    return stream.getvalue()


@pytest.mark.parametrize("place", ["message", "exception", "logger", "field", "stack"])
def test_multiline_record_stays_one_log_record(place: str) -> None:
    logged = _capture_log("text", place)
    first, *others = logged.removesuffix("\n").split("\n")
    assert "\x1b" not in logged
    assert re.match(r"\d{4}-", first)
    assert [line for line in others if not line.startswith("    ")] == []


def test_json_record_unchanged_by_escaping() -> None:
    logged = _capture_log("json", "message")
    assert plain_text.escape(logged) == logged
    assert json.loads(logged)["event"] == f"first\n{_FORGED}"
