"""Importing the modules that users write jobs and schedules in. One that does not import must not stop the others."""

import contextlib
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from jobworker.domain.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Broken:
    """A module that did not import, and why."""

    module: str
    traceback: str


def load(package: str, holds: str = "jobs", setting: str = "JOBWORKER_TASKS") -> list[Broken]:
    """Import every module of `package`; answers those that failed. Raises `Misconfigured` if there is none."""
    _required(package, holds, setting)
    return [failure for name in _modules(package) if (failure := _import(name))]


def load_anew(package: str, holds: str, setting: str) -> list[Broken]:
    """The same, for modules that are read for what they do when they run: they run, whoever imported them before.

    Others keep what they imported.
    """
    before = _take_out(package)
    importlib.invalidate_caches()
    _forget_compiled(package)
    try:
        return load(package, holds, setting)
    finally:
        _take_out(package)
        sys.modules.update(before)


def _forget_compiled(package: str) -> None:
    """Python takes what it compiled for up to date if a file was changed within a second and has the same length."""
    for folder in _folders(package):
        for path in Path(folder).rglob("*.py"):
            with contextlib.suppress(OSError):
                Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def exists(package: str) -> bool:
    """Whether there is such a package."""
    return bool(_folders(package))


def source_digest(package: str) -> str:
    """A short digest of the package's source files: the same code has the same digest on every host."""
    digest = hashlib.sha256()
    for folder in _required(package, "jobs", "JOBWORKER_TASKS"):
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _required(package: str, holds: str, setting: str) -> list[str]:
    found = _folders(package)
    if not found:
        raise Misconfigured(
            f"there is no package {package!r} with {holds} here; start from the folder that holds it, "
            f"or set {setting} to the package's name"
        )
    return found


def _folders(package: str) -> list[str]:
    """Where the package's modules are; nowhere if there is no such package."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def _take_out(package: str) -> dict[str, ModuleType]:
    inside = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
    return {name: sys.modules.pop(name) for name in inside}


def _modules(package: str) -> Iterator[str]:
    yield package
    for module in pkgutil.walk_packages(_folders(package), f"{package}.", onerror=lambda _: None):
        if not module.name.rpartition(".")[2].startswith("__"):
            yield module.name


def _import(name: str) -> Broken | None:
    try:
        importlib.import_module(name)
    except Exception:  # noqa: BLE001  whatever a user's module raises, it is that module's fault only
        return Broken(name, traceback.format_exc())
    return None
