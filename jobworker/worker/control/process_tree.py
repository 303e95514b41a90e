"""A process of the pool and everything that descends from it: found, told to end, and killed.

Each process of the pool leads a session and a group of its own, so what its jobs start can be told apart from the
rest of the worker. What has left the group is found through /proc where there is one: by its parents, and, once those
are gone, by its session. Only what did both, lost its parents and opened a session of its own, has got away.
"""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

#: Rounds of looking and killing; what forks faster than that has got away.
_MAX_KILL_ROUNDS = 5

_PROC = Path("/proc")


class ProcessInfo(NamedTuple):
    """A process as /proc shows it. `born` (ticks since boot) tells it from a later one with the same number."""

    pid: int
    parent: int
    group: int
    session: int
    started_ticks: int


def start_session() -> None:
    """Make this process the leader of a session and of a group of its own."""
    with contextlib.suppress(PermissionError):  # It leads a group already.
        os.setsid()


def find_members(leader: int) -> set[ProcessInfo]:
    """What descends from `leader` or is in its session, without itself; empty where there is no /proc."""
    everybody = list(_list_processes())
    found: set[ProcessInfo] = set()
    wanted = {leader}
    while wanted:
        new = {
            each
            for each in everybody
            if each not in found and each.pid != leader and (each.parent in wanted or each.session == leader)
        }
        found |= new
        wanted = {each.pid for each in new}
    return found


def terminate_tree(leader: int) -> set[ProcessInfo]:
    """Send SIGTERM to `leader` and all its members; answers these, since they cannot be found when it is gone."""
    found = find_members(leader)
    # Whom the group reaches is not told twice: a process of the pool would take the second time for an emergency.
    _send_signal(signal.SIGTERM, leader, (each for each in found if each.group != leader))
    return found


def kill_tree(leader: int, former_members: Iterable[ProcessInfo] = ()) -> None:
    """Kill `leader`, its group, its members, and those that were members once (`former_members`)."""
    others = {
        each for each in former_members if (seen := _read_stat(each.pid)) and seen.started_ticks == each.started_ticks
    }
    for _ in range(_MAX_KILL_ROUNDS):
        found = find_members(leader) | others
        _send_signal(signal.SIGKILL, leader, found)
        others = set()
        if not found:
            return


def kill_group(leader: int) -> None:
    """Kill what is left of the group of a process that has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _send_signal(number: signal.Signals, leader: int, others: Iterable[ProcessInfo]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if _leads_group(leader):
            os.killpg(leader, number)
        else:
            os.kill(leader, number)
    for each in others:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(each.pid, number)


def _leads_group(leader: int) -> bool:
    try:
        return os.getpgid(leader) == leader
    except ProcessLookupError:
        return True  # It is gone; its group may not be.


def _list_processes() -> Iterator[ProcessInfo]:
    """All processes that are alive: a zombie needs no signal."""
    with contextlib.suppress(OSError):
        for entry in os.listdir(_PROC):
            if entry.isdecimal() and (seen := _read_stat(int(entry))):
                yield seen


def _read_stat(pid: int) -> ProcessInfo | None:
    """None if there is no such process (any more)."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The second field is the name, in brackets, and may hold anything, brackets too.
    state, *fields = text.rpartition(b")")[2].split()
    if state in (b"Z", b"X"):
        return None
    parent, group, session = map(int, fields[:3])
    return ProcessInfo(pid, parent, group, session, int(fields[18]))
