"""Members of a process tree, and the end of all of them."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from jobworker.worker.control import process_tree as processes
from tests.polling import wait_until

#: A leader with a child in its group, a child with its own session and an orphan; the script prints their pids.
_PROCESS_TREE_SCRIPT = """
trap '' TERM
sleep 600 & plain=$!
setsid sleep 600 & apart=$!
orphan=$( (sleep 600 >/dev/null 2>&1 & echo $!) )
echo $plain $apart $orphan
wait
"""


class ProcessTree:
    """A leader process and its three members."""

    def __init__(self) -> None:
        self._leader = subprocess.Popen(
            ["sh", "-c", _PROCESS_TREE_SCRIPT], stdout=subprocess.PIPE, start_new_session=True, text=True
        )
        assert self._leader.stdout is not None
        self.pid = self._leader.pid
        self.members = {int(word) for word in self._leader.stdout.readline().split()}

    def has_leader_ended(self) -> bool:
        """Return whether the leader has ended."""
        return self._leader.poll() is not None

    def list_alive(self) -> set[int]:
        """Return the members that run."""
        return {pid for pid in self.members if processes._read_stat(pid)}

    def kill_all(self) -> None:
        """Kill the whole tree."""
        processes.kill_tree(self.pid)
        self._leader.communicate()


@pytest.fixture
def process_tree() -> Iterator[ProcessTree]:
    tree = ProcessTree()
    yield tree
    tree.kill_all()


def test_process_tree_members_found_in_other_sessions(process_tree: ProcessTree) -> None:
    # `setsid` forks when it leads a group.
    assert process_tree.members <= {member.pid for member in processes.find_members(process_tree.pid)} | {
        process_tree.pid
    }


def test_kill_tree_ends_all_members(process_tree: ProcessTree) -> None:
    processes.kill_tree(process_tree.pid)
    wait_until(lambda: process_tree.has_leader_ended() and not process_tree.list_alive())


def test_known_members_killed_after_leader_ended(process_tree: ProcessTree) -> None:
    members = processes.terminate_tree(process_tree.pid)
    os.kill(process_tree.pid, 9)
    wait_until(process_tree.has_leader_ended)
    processes.kill_tree(process_tree.pid, members)
    wait_until(lambda: not process_tree.list_alive())


def test_reused_pid_not_killed() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        seen = processes._read_stat(process.pid)
        assert seen is not None
        gone = subprocess.Popen(["true"], start_new_session=True)
        gone.wait()
        processes.kill_tree(gone.pid, {seen._replace(started_ticks=seen.started_ticks - 1)})
        assert process.poll() is None
        process.kill()


def test_ended_process_causes_no_error() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert processes.find_members(gone.pid) == set()
    processes.kill_tree(gone.pid)
    processes.kill_group(gone.pid)
    assert processes.terminate_tree(gone.pid) == set()
