"""The orphan reaper: no process outlives the one that started it (`jobworker up`, a worker), even after kill -9.

A tiny shell waits for the end of a pipe to which only its owner can write. The last line in the pipe is the list of
process groups to kill then. The shell also holds the lock on the home, so that the next `jobworker up` starts after the
last process has ended. Unlike a parent-death signal, this reaches the children of children, and works on every Unix.
"""

import subprocess
from collections.abc import Iterable
from types import TracebackType

_SCRIPT = """
groups=
while read -r line; do groups=$line; done
for group in $groups; do kill -s KILL -- "-$group"; done 2>/dev/null
exit 0
"""


class OrphanReaper:
    """A shell that kills the registered process groups when this process ends."""

    def __init__(self, *inherited_descriptors: int) -> None:
        self._inherited_descriptors = inherited_descriptors
        self._shell = self._start()

    def set_groups(self, groups: Iterable[int]) -> None:
        """Replace the registered process groups."""
        line = (" ".join(map(str, groups)) + "\n").encode()
        try:
            self._write(line)
        except BrokenPipeError:
            # The shell was killed.
            self._shell.wait()
            self._shell = self._start()
            self._write(line)

    def close_inherited_pipe(self) -> None:
        """Close the pipe in a process that was forked from the owner, which must not keep it open."""
        assert self._shell.stdin is not None
        self._shell.stdin.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Not reached by Ctrl-C, or by a signal to the supervisor's own group.
            start_new_session=True,
            env={},  # Empty, because other programs of this user could read the environment there.
            pass_fds=self._inherited_descriptors,
            bufsize=0,
        )

    def _write(self, line: bytes) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(line)

    def __enter__(self) -> "OrphanReaper":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait()
