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
_ROUNDS = 5

_PROC = Path("/proc")


class Member(NamedTuple):
    """A process as /proc shows it. `born` (ticks since boot) tells it from a later one with the same number."""

    pid: int
    parent: int
    group: int
    session: int
    started_ticks: int


def begin_session() -> None:
    """Make this process the leader of a session and of a group of its own."""
    with contextlib.suppress(PermissionError):  # It leads a group already.
        os.setsid()


def members(leader: int) -> set[Member]:
    """What descends from `leader` or is in its session, without itself; empty where there is no /proc."""
    everybody = list(_everybody())
    found: set[Member] = set()
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


def ask_to_end(leader: int) -> set[Member]:
    """Send SIGTERM to `leader` and all its members; answers these, since they cannot be found when it is gone."""
    found = members(leader)
    # Whom the group reaches is not told twice: a process of the pool would take the second time for an emergency.
    _signal(signal.SIGTERM, leader, (each for each in found if each.group != leader))
    return found


def kill(leader: int, known: Iterable[Member] = ()) -> None:
    """Kill `leader`, its group, its members, and those that were members once (`known`)."""
    others = {each for each in known if (seen := _stat(each.pid)) and seen.started_ticks == each.started_ticks}
    for _ in range(_ROUNDS):
        found = members(leader) | others
        _signal(signal.SIGKILL, leader, found)
        others = set()
        if not found:
            return


def kill_group(leader: int) -> None:
    """Kill what is left of the group of a process that has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _signal(number: signal.Signals, leader: int, others: Iterable[Member]) -> None:
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


def _everybody() -> Iterator[Member]:
    """All processes that are alive: a zombie needs no signal."""
    with contextlib.suppress(OSError):
        for entry in os.listdir(_PROC):
            if entry.isdecimal() and (seen := _stat(int(entry))):
                yield seen


def _stat(pid: int) -> Member | None:
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
    return Member(pid, parent, group, session, int(fields[18]))
