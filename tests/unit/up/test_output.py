"""Output of `jobworker up` on the terminal and in log files."""

import os
from pathlib import Path

import pytest

from jobworker.clock import SystemClock
from jobworker.up import log_files, process
from jobworker.up.log_files import LogFile
from jobworker.up.output import ProcessOutput
from jobworker.up.procfile import Service
from tests.polling import wait_until

_TIME = "2026-11-30T18:41:43.603013Z"


def _read_printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.partition("| ")[2] for line in capsys.readouterr().out.removesuffix("\n").split("\n")]


@pytest.fixture
def output(tmp_path: Path) -> ProcessOutput:
    return ProcessOutput(SystemClock(), ["web"], tmp_path / "logs")


@pytest.mark.parametrize(
    "line",
    [
        f"{_TIME} [info     ] process_starts  [jobworker] process=web",
        f"{_TIME} [debug    ] detail",
        '{"process": "web", "event": "process_starts", "level": "info", "timestamp": "…"}',
    ],
)
def test_info_records_written_to_file_only(
    output: ProcessOutput, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    output.write_lines("web", [line, "    its second line", b"", b"a line of its own"])

    assert _read_printed(capsys) == ["a line of its own"]
    assert output.get_log_path("web").read_text().splitlines() == [line, "    its second line", "", "a line of its own"]


@pytest.mark.parametrize(
    "lines",
    [
        [f"{_TIME} [warning  ] odd", f"{_TIME} [error    ] wrong", "Traceback (most recent call last):", "  File"],
        ['{"event": "\\"level\\": \\"info\\"", "level": "error"}'],
        ["8962:M 30 Nov 2026 18:41:40.606 # WARNING Memory overcommit must be enabled!"],
    ],
)
def test_warnings_and_errors_printed_and_written_to_file(
    output: ProcessOutput, capsys: pytest.CaptureFixture[str], lines: list[str]
) -> None:
    output.write_lines("web", lines)

    assert _read_printed(capsys) == lines
    assert output.get_log_path("web").read_text().splitlines() == lines


def test_continuation_lines_follow_record_of_same_process(
    output: ProcessOutput, capsys: pytest.CaptureFixture[str]
) -> None:
    output.write_lines("web", [f"{_TIME} [error    ] wrong"])
    output.write_lines("relay", [f"{_TIME} [info     ] well"])
    output.write_lines("web", ["    more"])
    output.write_message("web died")

    assert [line.split()[-1] for line in _read_printed(capsys)] == ["wrong", "more", "died"]
    assert output.get_log_path("up").read_text().endswith(" web died\n")


def test_only_line_feeds_end_a_line(output: ProcessOutput, capsys: pytest.CaptureFixture[str]) -> None:
    output.write_lines("web", [f"{_TIME} [error    ] a\u2028b\u2029c\x85d\re\x0bf\x1b[31mg".encode()])

    shown = rf"{_TIME} [error    ] a\u2028b\u2029c\x85d\re\x0bf\x1b[31mg"
    assert _read_printed(capsys) == [shown]
    assert output.get_log_path("web").read_text() == f"{shown}\n"


def test_rest_of_cut_line_indented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_MAX_LINE_SIZE", 3)
    monkeypatch.setattr(process, "_CHUNK_SIZE", 6)
    running = process.ServiceProcess(Service("any", r"printf 'abcdefgh\r\n\fij'"), os.environ, Path.cwd())
    lines: list[bytes] = []

    def read() -> bool:
        lines.extend(running.read_lines())
        return running.output_closed

    running.start_command()
    wait_until(read, within=30, what="the end of the output")
    assert lines == [b"abcdef", b"    gh\r", b"\fij"]
    assert running.close() == []


def test_only_line_feeds_split_final_output() -> None:
    running = process.ServiceProcess(Service("any", r"printf 'a\rb\n\nc\n'"), os.environ, Path.cwd())
    running.start_command()
    wait_until(lambda: running.returncode is not None, within=30, what="its end")
    assert running.close() == [b"a\rb", b"", b"c"]


def test_readable_log_folder_made_private(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs").chmod(0o755)
    LogFile(tmp_path / "logs" / "web.log").close()

    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700


def test_large_log_file_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "_MAX_SIZE", 3)
    file = LogFile(tmp_path / "logs" / "web.log")
    for number in range(7):
        file.write(f"{number}" * 3)
    file.close()

    paths = sorted((tmp_path / "logs").iterdir())
    assert [(path.name, path.read_text()) for path in paths] == [
        ("web.log", "666\n"),
        *((f"web.log.{number}", f"{6 - number}" * 3 + "\n") for number in range(1, 5)),
    ]
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700
