"""Lines and messages in the output of a pipe that arrives in pieces."""

import pytest

from jobworker.worker.isolation.pipe_reader import MAX_LINE_SIZE, MAX_MESSAGE_SIZE, LineSplitter, MessageParser


def test_lines_joined_from_pieces() -> None:
    lines = LineSplitter()
    output_lines = [line for piece in (b"on", b"e\ntwo\r\n\nthr", b"ee") for line in lines.feed(piece)]
    assert [*output_lines, *lines.finish()] == ["one", "two", "", "three"]


def test_undecodable_bytes_replaced() -> None:
    assert list(LineSplitter().feed(b"\xff\xfe caf\xc3\xa9\n")) == ["\ufffd\ufffd café"]


def test_endless_line_cut_into_lines() -> None:
    lines = LineSplitter()
    output_lines = [line for _ in range(5) for line in lines.feed(b"x" * MAX_LINE_SIZE)]
    assert all(0 < len(line) <= MAX_LINE_SIZE for line in output_lines)
    assert sum(map(len, [*output_lines, *lines.finish()])) == 5 * MAX_LINE_SIZE


def test_output_beyond_limit_counted() -> None:
    lines = LineSplitter(max_size=400)
    output_lines = list(lines.feed(b"0123456789\n" * 10))
    assert output_lines == ["0123456789"] * 3
    assert list(lines.feed(b"more\n" * 1000)) == []
    assert list(lines.finish()) == [f"[{7 * 11 + 5000} more bytes, 1007 lines, were printed and are not kept]"]


def test_non_object_messages_ignored() -> None:
    messages = MessageParser()
    pieces = [b'{"a": 1}\n[2]\nrub', b"bish\n\xff\n", b'{"b": {"c"', b": 2}}\n"]
    assert [message for piece in pieces for message in messages.feed(piece)] == [{"a": 1}, {"b": {"c": 2}}]


@pytest.mark.parametrize("pieces", [1, 7])
def test_endless_message_discarded(pieces: int) -> None:
    messages = MessageParser()
    for _ in range(pieces):
        assert list(messages.feed(b"x" * (MAX_MESSAGE_SIZE + 1))) == []
    assert list(messages.feed(b'tail\n{"good": true}\n')) == [{"good": True}]
