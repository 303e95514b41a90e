"""Start of `jobworker up` with small Procfiles."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.up_process import UpProcess

SLEEP_COMMAND = "sleep 600"

#: Command that writes its argument to the file `stopped` when it is terminated.
SIGNAL_RECORDER_COMMAND = f"{sys.executable} -u tells.py"
_SIGNAL_RECORDER_CODE = """
import pathlib, signal, sys
def stop(*_):
    with open("stopped", "a") as file:
        file.write(sys.argv[1] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    signal.pause()
"""

UpStarter = Callable[..., UpProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[UpStarter]:
    """Function that starts `jobworker up` with a Procfile of the given lines."""
    started: list[UpProcess] = []

    def run(*lines: str, **environment: str) -> UpProcess:
        (tmp_path / "Procfile").write_text("".join(f"{line}\n" for line in lines))
        (tmp_path / "tells.py").write_text(_SIGNAL_RECORDER_CODE)
        up = UpProcess(tmp_path, **environment)
        started.append(up)
        return up

    yield run
    for up in started:
        up.kill()
