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
    """A file of an execution: its name, its size (bytes), when it was last written (seconds since 1970)."""

    name: str
    size: int
    modified_at: float


class LocalFiles:
    """The folder of one execution. It is made when the first file is saved."""

    def __init__(self, home: Path, execution_id: str) -> None:
        self._folder = home.absolute() / "files" / execution_id

    def save(self, name: str, data: bytes | str) -> SavedFile:
        """Write the whole file or nothing; raises `ValueError` for a name that is not a plain file name."""
        if not is_plain_name(name):
            raise ValueError(f"{name!r} is not a plain file name")
        content = data.encode() if isinstance(data, str) else data
        self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.parent.chmod(0o700)  # It may have been made with another mode.
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / name
        unfinished = path.with_name(f".{name}.{os.getpid()}")
        # Results and exports are for the user of JobWorker's processes alone, as the database is.
        with open(unfinished, "wb", opener=_open_private) as file:
            file.write(content)
        unfinished.replace(path)
        return SavedFile(str(path), len(content))

    def save_result(self, attempt: int, text: bytes) -> dict[str, Any]:
        """Keep a result that is too long for the database; answers name, size, sha256 and host.

        Each attempt has a file of its own, so that one that was given up and goes on cannot replace a later one's.
        """
        name = f"result-{attempt}.json"
        saved = self.save(name, text)
        digest = hashlib.sha256(text).hexdigest()
        return {"name": name, "size": saved.size, "sha256": digest, "host": socket.gethostname()}

    def list_files(self) -> Iterator[LocalFile]:
        """The files that are here, in no order."""
        if not self._folder.is_dir():
            return
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if is_plain_name(entry.name) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield LocalFile(entry.name, status.st_size, status.st_mtime)

    def open(self, name: str) -> tuple[IO[bytes], LocalFile] | None:
        """The file of this name, opened; None if there is none here, or it is no file that `found` would show.

        A link that a job may have left leads nowhere.
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
    """Whether it is the name of a file that a job may keep: no path, and no file that is still being written."""
    return 0 < len(name) <= 255 and name == Path(name).name and not name.startswith(".") and name.isprintable()
