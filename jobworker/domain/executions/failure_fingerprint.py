"""Fingerprints of failures: a short hash of the exception's type and the frames that raised the exception.

Line numbers and messages are left out, so that the fingerprint does not depend on changes to the code around the frames
or on the job's parameters. It is computed from the reported error, so it exists for every kind of worker.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

#: A frame line of a traceback, also inside of an exception group.
_FRAME = re.compile(r'^[ |+-]*File "(?P<path>[^"\n]{1,1000})", line \d+, in (?P<function>[^\n]{1,200})$', re.MULTILINE)

#: The text between the traceback of a cause and the traceback of its consequence.
_CHAINED_TRACEBACK = re.compile(
    r"^(?:During handling of the above exception|The above exception was the direct cause)", re.MULTILINE
)

#: Folders with library code. Their location and their version may differ between hosts.
_LIBRARY_PATH = re.compile(
    r"/(?:site-packages|dist-packages|python3(?:\.\d+)?|jobworker/(?:worker|transport))/|^<frozen "
)

#: Exceptions that may be raised at any point of the job, so their frames do not characterize the failure.
_ASYNCHRONOUS_ERRORS = frozenset({"SoftTimeLimitExceeded", "TimeLimitExceeded", "MemoryError", "KeyboardInterrupt"})

#: Maximum number of frames of a deep stack, counted from the failure.
_MAX_FRAMES = 50


def compute_fingerprint(error: Mapping[str, Any] | None, task: str) -> str:
    """Return the fingerprint (16 hexadecimal digits) of `error` (type, message, traceback), which ended `task`.

    Without frames of the user's code, as when a worker died or a built-in job refuses, the task is part of the hash.
    """
    kind = str((error or {}).get("type"))
    traceback = (error or {}).get("traceback")
    theirs, others = (
        _extract_frames(traceback) if isinstance(traceback, str) and kind not in _ASYNCHRONOUS_ERRORS else ([], [])
    )
    seen = "\n".join([kind, *(theirs or [task, *others])])
    return hashlib.blake2b(seen.encode(errors="replace"), digest_size=8).hexdigest()


def _extract_frames(traceback: str) -> tuple[list[str], list[str]]:
    """Return `module function` of each frame of the user's code, and of every frame; recursion counts once."""
    last = _CHAINED_TRACEBACK.split(traceback)[-1]
    frames = list(_iterate_frames(last))
    user_frames = [frame for path, frame in frames if not _LIBRARY_PATH.search(path)]
    return _drop_repeated_frames(user_frames), _drop_repeated_frames([frame for _, frame in frames])


def _drop_repeated_frames(frames: list[str]) -> list[str]:
    return [frame for frame, _ in itertools.groupby(frames)][-_MAX_FRAMES:]


def _iterate_frames(traceback: str) -> Iterator[tuple[str, str]]:
    for line in _FRAME.finditer(traceback):
        path = line["path"].replace("\\", "/")
        # The file's folder is its package; the path above differs between hosts.
        yield path, f"{'/'.join(path.split('/')[-2:])} {line['function']}"
