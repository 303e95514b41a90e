"""Which processes belong to one, and that all of them end."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from jobworker.worker import processes
from tests.waiting import until

#: A leader with a child in its group, one with a session of its own, and one whose parent is gone; it says who.
_FAMILY = """
trap '' TERM
sleep 600 & plain=$!
setsid sleep 600 & apart=$!
orphan=$( (sleep 600 >/dev/null 2>&1 & echo $!) )
echo $plain $apart $orphan
wait
"""


class Family:
    """A leader and its three."""

    def __init__(self) -> None:
        self._leader = subprocess.Popen(
            ["sh", "-c", _FAMILY], stdout=subprocess.PIPE, start_new_session=True, text=True
        )
        assert self._leader.stdout is not None
        self.pid = self._leader.pid
        self.members = {int(word) for word in self._leader.stdout.readline().split()}

    def has_leader_ended(self) -> bool:
        """Whether the leader is gone."""
        return self._leader.poll() is not None

    def list_alive(self) -> set[int]:
        """Which of the three run."""
        return {pid for pid in self.members if processes._stat(pid)}

    def kill_all(self) -> None:
        """Leave nothing of it."""
        processes.kill(self.pid)
        self._leader.communicate()


@pytest.fixture
def family() -> Iterator[Family]:
    made = Family()
    yield made
    made.kill_all()


def test_members_are_found_wherever_they_are(family: Family) -> None:
    # `setsid` forks when it leads a group.
    assert family.members <= {each.pid for each in processes.members(family.pid)} | {family.pid}


def test_all_are_killed(family: Family) -> None:
    processes.kill(family.pid)
    until(lambda: family.has_leader_ended() and not family.list_alive())


def test_those_that_were_known_are_killed_after_their_leader_is_gone(family: Family) -> None:
    known = processes.ask_to_end(family.pid)
    os.kill(family.pid, 9)
    until(family.has_leader_ended)
    processes.kill(family.pid, known)
    until(lambda: not family.list_alive())


def test_a_number_that_somebody_else_has_by_now_is_not_killed() -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        seen = processes._stat(other.pid)
        assert seen is not None
        gone = subprocess.Popen(["true"], start_new_session=True)
        gone.wait()
        processes.kill(gone.pid, {seen._replace(started_ticks=seen.started_ticks - 1)})
        assert other.poll() is None
        other.kill()


def test_nobody_is_no_error() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert processes.members(gone.pid) == set()
    processes.kill(gone.pid)
    processes.kill_group(gone.pid)
    assert processes.ask_to_end(gone.pid) == set()
