"""Generated passwords, stored beside the data that they protect."""

import os
import secrets
from pathlib import Path

from jobworker.domain.errors import ConfigurationError


def get_or_create(path: Path) -> str:
    """Return the password in `path`; if the file is missing, generate and write it, readable by its owner only."""
    try:
        return _read(path) or _create(path)
    except OSError as error:
        raise ConfigurationError(f"the password file {path} cannot be used: {error.strerror}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""


def _create(path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = secrets.token_urlsafe(24)
    write_private_file(path, password + "\n")
    return password


def write_private_file(path: Path, text: str) -> None:
    """Replace the content of `path` atomically; the file is never readable by other users."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        fresh.rename(path)
    except OSError:  # For example a full disk.
        fresh.unlink(missing_ok=True)
        raise
