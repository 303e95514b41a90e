"""Standard output that cannot be written: the text written meanwhile is lost, and nothing else fails."""

import fcntl
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.telemetry import logging


@pytest.fixture
def full() -> Iterator[int]:
    """The descriptor of a file on a full disk."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


def test_unwritable_output_dropped_and_counted(full: int, tmp_path: Path) -> None:
    stream = logging.open_lossy_stream(full)
    stream.write("lost\n")
    stream.write("also\n")
    with (tmp_path / "log").open("wb") as room:
        os.dup2(room.fileno(), full)
    stream.write("kept\n")
    stream.write("kept too\n")

    said = "(10 bytes of output were lost: No space left on device)"
    assert (tmp_path / "log").read_text().splitlines() == [said, "kept", "kept too"]


def test_closed_pipe_does_not_raise() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = logging.open_lossy_stream(writer)
    for _ in range(100):
        stream.write("x" * 10_000 + "\n")
    os.close(writer)


@pytest.mark.parametrize("lowest", [3, 1024], ids=["descriptor", "descriptor-above-1023"])
def test_nonblocking_output_written_completely(lowest: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    reader, first = os.pipe()
    writer = fcntl.fcntl(first, fcntl.F_DUPFD_CLOEXEC, lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    os.close(first)
    os.set_blocking(writer, False)
    text = "x" * 1_000_000 + "\n"
    with subprocess.Popen(["wc", "-c"], stdin=reader, stdout=subprocess.PIPE) as counter:
        os.close(reader)
        try:
            logging.open_lossy_stream(writer).write(text)
        finally:
            os.close(writer)
        assert int(counter.communicate()[0]) == len(text)


@pytest.mark.parametrize("output", ["/dev/full", "closed"])
def test_process_keeps_exit_code_with_unwritable_output(output: str) -> None:
    code = "from jobworker.telemetry import logging; logging.tolerate_output_errors(); print('x' * 100_000); exit(7)"
    shown = ">&- 2>&-" if output == "closed" else f">{output} 2>&1"
    done = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {shown}', sys.executable, code], check=False)
    assert done.returncode == 7
