"""Files on the worker's own disk: `<home>/files/<execution id>/<name>`."""

import os
from pathlib import Path

from jobworker.declare import SavedFile


class LocalFiles:
    """The folder of one execution. It is made when the first file is saved."""

    def __init__(self, home: Path, execution_id: str) -> None:
        self._home = home
        self._execution = execution_id

    def save(self, name: str, data: bytes | str) -> SavedFile:
        """Write the whole file or nothing; raises `ValueError` for a name that is not a plain file name."""
        if name != Path(name).name or name in ("", ".", ".."):
            raise ValueError(f"{name!r} is not a plain file name")
        content = data.encode() if isinstance(data, str) else data
        folder = self._home.absolute() / "files" / self._execution
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        unfinished = path.with_name(f".{name}.{os.getpid()}")
        unfinished.write_bytes(content)
        unfinished.replace(path)
        return SavedFile(str(path), len(content))
