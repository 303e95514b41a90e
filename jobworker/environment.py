"""Protection of a process's environment, which includes passwords of databases, from other programs of its user."""

import contextlib
import ctypes
import os
from pathlib import Path

_PR_SET_DUMPABLE = 4

#: Fields of the begin and end of a process's environment in its memory: fields 50 and 51 of `/proc/self/stat`, of which
#: the first two are cut off.
_BEGIN, _END = 47, 48


def hide() -> None:
    """Clear `/proc/<pid>/environ` of this process, and let only root read its memory (on Linux).

    The environment itself stays unchanged, also for child processes.
    """
    with contextlib.suppress(OSError, AttributeError, IndexError, ValueError):
        library = ctypes.CDLL(None)
        for name, value in os.environb.items():
            os.putenv(name, value)  # Stores the variable at another address.
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        begin, end = int(fields[_BEGIN]), int(fields[_END])
        ctypes.memset(begin, 0, end - begin)
        library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
