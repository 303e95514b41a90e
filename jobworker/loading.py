"""Importing the modules that users write jobs in. One that does not import must not stop the others."""

import hashlib
import importlib
import importlib.util
import pkgutil
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobworker.domain.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Broken:
    """A module that did not import, and why."""

    module: str
    traceback: str


def load(package: str) -> list[Broken]:
    """Import every module of `package`; answers those that failed. Raises `Misconfigured` if there is none."""
    _spec(package)
    return [failure for name in _modules(package) if (failure := _import(name))]


def source_digest(package: str) -> str:
    """A short digest of the package's source files: the same code has the same digest on every host."""
    digest = hashlib.sha256()
    for folder in _spec(package):
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _spec(package: str) -> list[str]:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.submodule_search_locations is None:
        raise Misconfigured(
            f"there is no package {package!r} with jobs here; start from the folder that holds it, "
            "or set JOBWORKER_TASKS to the package's name"
        )
    return list(spec.submodule_search_locations)


def _modules(package: str) -> Iterator[str]:
    yield package
    for module in pkgutil.walk_packages(_spec(package), f"{package}.", onerror=lambda _: None):
        if not module.name.rpartition(".")[2].startswith("__"):
            yield module.name


def _import(name: str) -> Broken | None:
    try:
        importlib.import_module(name)
    except Exception:  # noqa: BLE001  whatever a user's module raises, it is that module's fault only
        return Broken(name, traceback.format_exc())
    return None
