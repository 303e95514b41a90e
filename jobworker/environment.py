"""Keeps what stands in a process's environment, such as the passwords of databases, from other programs of its user."""

import contextlib
import ctypes
import os
from pathlib import Path

_PR_SET_DUMPABLE = 4

#: Where a process's environment begins and ends in its memory: fields 50 and 51 of `/proc/self/stat`, of which the
#: first two are cut off.
_BEGIN, _END = 47, 48


def hide() -> None:
    """Empty what `/proc/<pid>/environ` shows of this process, and let nothing but root read its memory (on Linux).

    The environment itself stays as it is, also for programs that are started.
    """
    with contextlib.suppress(OSError, AttributeError, IndexError, ValueError):
        library = ctypes.CDLL(None)
        for name, value in os.environb.items():
            os.putenv(name, value)  # From now on it stands elsewhere.
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        begin, end = int(fields[_BEGIN]), int(fields[_END])
        ctypes.memset(begin, 0, end - begin)
        library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
