"""What tells one kind of failure from another: a short hash of the exception's type and the frames that raised it.

Neither line numbers nor messages belong to it, so that it stays the same while code around it changes and
whatever values the job was given. It is read from the error as it was reported, so every kind of worker has one.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

#: A line of a traceback, also inside of an exception group.
_FRAME = re.compile(r'^[ |+-]*File "(?P<path>[^"\n]{1,1000})", line \d+, in (?P<function>[^\n]{1,200})$', re.MULTILINE)

#: What stands between the traceback of a cause and that of what came of it.
_CHAINED_TRACEBACK = re.compile(
    r"^(?:During handling of the above exception|The above exception was the direct cause)", re.MULTILINE
)

#: Folders with code that is not the user's. Of two hosts, one may have it elsewhere, or in another version.
_LIBRARY_PATH = re.compile(
    r"/(?:site-packages|dist-packages|python3(?:\.\d+)?|jobworker/(?:worker|transport))/|^<frozen "
)

#: Exceptions that strike wherever the job is at the moment: where that was says nothing.
_ASYNCHRONOUS_ERRORS = frozenset({"SoftTimeLimitExceeded", "TimeLimitExceeded", "MemoryError", "KeyboardInterrupt"})

#: Of a deep stack the frames nearest to the failure.
_MAX_FRAMES = 50


def compute_fingerprint(error: Mapping[str, Any] | None, task: str) -> str:
    """The fingerprint (16 hexadecimal digits) of `error` (type, message, traceback), which `task` ended with.

    Without frames of the user's code, as when a worker died or a built-in job refuses, the task belongs to it.
    """
    kind = str((error or {}).get("type"))
    traceback = (error or {}).get("traceback")
    theirs, others = (
        _extract_frames(traceback) if isinstance(traceback, str) and kind not in _ASYNCHRONOUS_ERRORS else ([], [])
    )
    seen = "\n".join([kind, *(theirs or [task, *others])])
    return hashlib.blake2b(seen.encode(errors="replace"), digest_size=8).hexdigest()


def _extract_frames(traceback: str) -> tuple[list[str], list[str]]:
    """`module function` of each frame of the user's code, and of every frame; recursion counts once."""
    last = _CHAINED_TRACEBACK.split(traceback)[-1]
    found = list(_iterate_frames(last))
    theirs = [frame for path, frame in found if not _LIBRARY_PATH.search(path)]
    return _drop_repeated_frames(theirs), _drop_repeated_frames([frame for _, frame in found])


def _drop_repeated_frames(frames: list[str]) -> list[str]:
    return [frame for frame, _ in itertools.groupby(frames)][-_MAX_FRAMES:]


def _iterate_frames(traceback: str) -> Iterator[tuple[str, str]]:
    for line in _FRAME.finditer(traceback):
        path = line["path"].replace("\\", "/")
        # The folder of the file is its package; what is above differs from host to host.
        yield path, f"{'/'.join(path.split('/')[-2:])} {line['function']}"
