"""The process tree of a pool process: found, terminated and killed.

Each process of the pool leads a session and a group of its own, so the processes that its jobs start can be
distinguished from the rest of the worker. Processes that left the group are found through /proc, where it exists: by
their parents and, once these have ended, by their session. Only a process that lost its parents and opened a session of
its own is not found.
"""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

#: Maximum number of rounds of searching and killing; a process that forks faster escapes.
_MAX_KILL_ROUNDS = 5

_PROC = Path("/proc")


class ProcessInfo(NamedTuple):
    """A process as /proc shows it. `started_ticks` (since boot) distinguishes it from a later process with its pid."""

    pid: int
    parent: int
    group: int
    session: int
    started_ticks: int


def start_session() -> None:
    """Make this process the leader of its own session and group."""
    with contextlib.suppress(PermissionError):  # This process leads a group already.
        os.setsid()


def find_members(leader: int) -> set[ProcessInfo]:
    """Return the descendants of `leader` and the processes in its session, without `leader`; empty without /proc."""
    processes = list(_list_processes())
    members: set[ProcessInfo] = set()
    parent_pids = {leader}
    while parent_pids:
        new = {
            process
            for process in processes
            if process not in members
            and process.pid != leader
            and (process.parent in parent_pids or process.session == leader)
        }
        members |= new
        parent_pids = {process.pid for process in new}
    return members


def terminate_tree(leader: int) -> set[ProcessInfo]:
    """Send SIGTERM to `leader` and all its members; return these, because they cannot be found after its end."""
    members = find_members(leader)
    # Members of the group are not signaled twice, because a process of the pool treats the second signal as urgent.
    _send_signal(signal.SIGTERM, leader, (member for member in members if member.group != leader))
    return members


def kill_tree(leader: int, former_members: Iterable[ProcessInfo] = ()) -> None:
    """Kill `leader`, its group, its members, and processes that were members earlier (`former_members`)."""
    former_alive = {
        process
        for process in former_members
        if (seen := _read_stat(process.pid)) and seen.started_ticks == process.started_ticks
    }
    for _ in range(_MAX_KILL_ROUNDS):
        members = find_members(leader) | former_alive
        _send_signal(signal.SIGKILL, leader, members)
        former_alive = set()
        if not members:
            return


def kill_group(leader: int) -> None:
    """Kill the remaining processes of the group of a process that has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _send_signal(number: signal.Signals, leader: int, members: Iterable[ProcessInfo]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if _leads_group(leader):
            os.killpg(leader, number)
        else:
            os.kill(leader, number)
    for process in members:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, number)


def _leads_group(leader: int) -> bool:
    try:
        return os.getpgid(leader) == leader
    except ProcessLookupError:
        return True  # The leader has ended; its group may exist.


def _list_processes() -> Iterator[ProcessInfo]:
    """Yield all processes that are alive; a zombie needs no signal."""
    with contextlib.suppress(OSError):
        for entry in os.listdir(_PROC):
            if entry.isdecimal() and (seen := _read_stat(int(entry))):
                yield seen


def _read_stat(pid: int) -> ProcessInfo | None:
    """Return the process; None if it does not exist (any more)."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The second field is the name, in parentheses, and may contain any characters, parentheses too.
    state, *fields = text.rpartition(b")")[2].split()
    if state in (b"Z", b"X"):
        return None
    parent, group, session = map(int, fields[:3])
    return ProcessInfo(pid, parent, group, session, int(fields[18]))
