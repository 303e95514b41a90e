"""Files on this host's own disk: `<home>/files/<execution id>/<name>`."""

import errno
import hashlib
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from jobworker.declare import SavedFile


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of an execution: its name, its size (bytes), and when it was last written (seconds since 1970)."""

    name: str
    size: int
    modified_at: float


class LocalFiles:
    """The folder of one execution, created when the first file is saved."""

    def __init__(self, home: Path, execution_id: str) -> None:
        self._folder = home.absolute() / "files" / execution_id

    def save(self, name: str, data: bytes | str) -> SavedFile:
        """Write a whole file or nothing; raises `ValueError` for a name that is not a plain file name."""
        if not is_plain_name(name):
            raise ValueError(f"{name!r} is not a plain file name")
        content = data.encode() if isinstance(data, str) else data
        self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.parent.chmod(0o700)  # The folder may exist with another mode.
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / name
        unfinished = path.with_name(f".{name}.{os.getpid()}")
        # Results and exports are readable only for the user of JobWorker's processes, as the database is.
        with open(unfinished, "wb", opener=_open_private) as file:
            file.write(content)
        unfinished.replace(path)
        return SavedFile(str(path), len(content))

    def save_result(self, attempt: int, text: bytes) -> dict[str, Any]:
        """Save a result that is too long for the database; return its name, size, sha256 and host.

        Each attempt has its own file, so that a lost attempt that still runs cannot replace the result of a later one.
        """
        name = f"result-{attempt}.json"
        saved = self.save(name, text)
        digest = hashlib.sha256(text).hexdigest()
        return {"name": name, "size": saved.size, "sha256": digest, "host": socket.gethostname()}

    def list_files(self) -> Iterator[LocalFile]:
        """Yield the files of the execution, in no order."""
        if not self._folder.is_dir():
            return
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if is_plain_name(entry.name) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield LocalFile(entry.name, status.st_size, status.st_mtime)

    def open(self, name: str) -> tuple[IO[bytes], LocalFile] | None:
        """Return the opened file of this name; None if it does not exist, or if `list_files` would not list it.

        A link that a job may have created is not followed.
        """
        if not is_plain_name(name):
            return None
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO):
                return None
            raise
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            return None
        return os.fdopen(descriptor, "rb"), LocalFile(name, status.st_size, status.st_mtime)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def is_plain_name(name: str) -> bool:
    """Return whether a job may save a file of this name: no path, and no file that is still being written."""
    return 0 < len(name) <= 255 and name == Path(name).name and not name.startswith(".") and name.isprintable()
