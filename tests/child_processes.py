"""The processes that jobs of tests have started, by the diary, and whether they are gone."""

import contextlib
import os
import signal
from pathlib import Path

from tests.engine import Engine


def list_started_pids(engine: Engine, execution: str) -> list[int]:
    """The processes that an execution said it has started."""
    lines = engine.activity_log.read_text().splitlines() if engine.activity_log.exists() else []
    noted = [line.split()[2] for line in lines if line.startswith(f"{execution} ")]
    return [int(what.removeprefix("child:")) for what in noted if what.startswith("child:")]


def get_attempt_pid(engine: Engine, execution: str) -> int:
    """The process that began its first attempt."""
    [begun] = [
        line for line in engine.activity_log.read_text().splitlines() if line.startswith(f"{execution} 1 start ")
    ]
    return int(begun.split()[-1])


def filter_alive(pids: list[int]) -> list[int]:
    """Those that run; a zombie does not, whoever has forgotten to bury it."""
    return [pid for pid in pids if _read_process_state(pid) not in ("", "Z", "X")]


def kill_processes(*pids: int) -> None:
    """Kill what a test leaves."""
    for pid in filter_alive(list(pids)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def list_descendants(pid: int) -> list[int]:
    """All that descends from a process."""
    found = [int(child) for task in _read_children_files(pid) for child in task.split()]
    return found + [each for child in found for each in list_descendants(child)]


def _read_children_files(pid: int) -> list[str]:
    try:
        return [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def _read_process_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
