"""Standard output of a job, captured as lines of its log."""

import io
import logging

import pytest

from jobworker.worker.attempt.output_capture import LoggingTextStream


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        (["a", "b\n", "c\nd"], ["ab", "c", "d"]),
        (["0 %\r", "50 %\r", "100 %\n"], ["100 %"]),
        (["windows\r\n", "\r\n"], ["windows", ""]),
        (["x" * 70_000], ["x" * 65_536, "x" * 4_464]),
    ],
)
def test_printed_pieces_logged_as_lines(caplog: pytest.LogCaptureFixture, pieces: list[str], lines: list[str]) -> None:
    stream = LoggingTextStream("stdout")
    with caplog.at_level(logging.INFO):
        for piece in pieces:
            assert stream.write(piece) == len(piece)
        stream.flush_line()
    assert [record.message for record in caplog.records] == lines
    assert {(record.name, record.levelname) for record in caplog.records} == {("stdout", "INFO")}


def test_captured_stream_supports_standard_output_methods(caplog: pytest.LogCaptureFixture) -> None:
    stream = LoggingTextStream("stderr")
    stream.reconfigure(encoding="latin-1", line_buffering=False)
    with caplog.at_level(logging.INFO):
        print("half", end="", file=stream, flush=True)
        stream.buffer.write(" and \xff\n".encode("latin-1"))
        stream.close()
        print("after", file=stream)
    assert [record.message for record in caplog.records] == ["half and \\xff", "after"]
    assert (stream.encoding, stream.line_buffering, stream.isatty(), stream.closed) == ("utf-8", True, False, False)
    with pytest.raises(io.UnsupportedOperation):
        stream.fileno()
