"""Processes that jobs of tests have started, read from the activity log, and whether they still run."""

import contextlib
import os
import signal
from pathlib import Path

from tests.system_driver import SystemDriver


def list_started_pids(engine: SystemDriver, execution: str) -> list[int]:
    """Return the pids of the processes that an execution has logged as started."""
    lines = engine.activity_log.read_text().splitlines() if engine.activity_log.exists() else []
    entries = [line.split()[2] for line in lines if line.startswith(f"{execution} ")]
    return [int(entry.removeprefix("child:")) for entry in entries if entry.startswith("child:")]


def get_attempt_pid(engine: SystemDriver, execution: str) -> int:
    """Return the pid of the process that started the execution's first attempt."""
    [begun] = [
        line for line in engine.activity_log.read_text().splitlines() if line.startswith(f"{execution} 1 start ")
    ]
    return int(begun.split()[-1])


def filter_alive(pids: list[int]) -> list[int]:
    """Return the pids that run; zombies do not count."""
    return [pid for pid in pids if _read_process_state(pid) not in ("", "Z", "X")]


def kill_processes(*pids: int) -> None:
    """Kill the processes that a test has left."""
    for pid in filter_alive(list(pids)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def list_descendants(pid: int) -> list[int]:
    """Return the pids of all descendants of a process."""
    child_pids = [int(child) for task in _read_children_files(pid) for child in task.split()]
    return child_pids + [descendant for child in child_pids for descendant in list_descendants(child)]


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
