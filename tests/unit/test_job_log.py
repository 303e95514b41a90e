"""Limits on the log of an execution."""

import pytest

from jobworker.domain.executions import log_limits
from jobworker.domain.executions.log_limits import MAX_LINE_BYTES, DroppedLines


@pytest.mark.parametrize("text", ["", "short", "x" * MAX_LINE_BYTES, "ü" * (MAX_LINE_BYTES // 2), "\ud800"])
def test_short_log_line_unchanged(text: str) -> None:
    assert log_limits.cut_line(text) == text


@pytest.mark.parametrize(
    "text", ["x" * (MAX_LINE_BYTES + 1), "ü" * MAX_LINE_BYTES, "€" * 10 * MAX_LINE_BYTES, "\ud800" * MAX_LINE_BYTES]
)
def test_long_log_line_cut_with_notice(text: str) -> None:
    cut = log_limits.cut_line(text)
    assert cut.endswith(f" … [cut: {len(text):,} characters]")
    assert MAX_LINE_BYTES - 100 < len(cut.encode("utf-8", "surrogatepass")) <= MAX_LINE_BYTES or "\ud800" in text
    assert log_limits.cut_line(cut) == cut


def test_log_line_size_includes_overhead() -> None:
    assert log_limits.compute_line_size("ü€") - log_limits.compute_line_size("") == 5
    assert log_limits.compute_line_size("") > 0, "or a log of empty lines would never be full"


def test_dropped_lines_counted_in_notices() -> None:
    dropped = DroppedLines(1, 40) + DroppedLines(2_000, 60)
    assert not DroppedLines()
    assert "2,001 lines (100 bytes)" in log_limits.format_cut_notice(dropped)
    assert "1 line (40 bytes)" in log_limits.format_gap_notice(DroppedLines(1, 40))
