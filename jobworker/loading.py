"""Import of the modules with users' jobs and schedules. A module that cannot be imported does not stop the others."""

import contextlib
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from jobworker.domain.errors import ConfigurationError
from jobworker.telemetry import configured

#: Folders of code that no user writes.
_LIBRARY_FOLDERS = {
    Path(__file__).parent,
    *(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")),
}


@dataclass(frozen=True, slots=True)
class BrokenModule:
    """A module that could not be imported, with the place ("tasks/mail.py:12"), the exception and its traceback."""

    module: str
    location: str
    error: str
    traceback: str

    def __str__(self) -> str:
        return f"{self.location}: {self.error}"


def load_modules(package: str, content: str = "jobs", setting: str = "JOBWORKER_TASKS") -> list[BrokenModule]:
    """Import every module of `package`; return those that failed.

    Raises `ConfigurationError` if there is no such package.
    """
    folders = _require_folders(package, content, setting)
    with configured.preserve_logging_state():
        return list(_load_recursively(package, folders))


def reload_modules(package: str, content: str, setting: str) -> list[BrokenModule]:
    """Import every module of `package` anew, also those that were imported before; return those that failed.

    For modules that have effects when they run. Other code keeps the module objects that it imported.
    """
    before = _pop_modules(package)
    importlib.invalidate_caches()
    _delete_bytecode(package)
    try:
        return load_modules(package, content, setting)
    finally:
        _pop_modules(package)
        sys.modules.update(before)


def _delete_bytecode(package: str) -> None:
    """Delete compiled code, as Python does not notice a change within a second that keeps the length of a file."""
    for folder in _find_folders(package):
        for path in Path(folder).rglob("*.py"):
            with contextlib.suppress(OSError):
                Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def is_package(package: str) -> bool:
    """Return whether there is such a package."""
    return bool(_find_folders(package))


def compute_source_digest(package: str) -> str:
    """Return a short digest of the package's source files: equal code has an equal digest on every host."""
    digest = hashlib.sha256()
    for folder in _require_folders(package, "jobs", "JOBWORKER_TASKS"):
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _require_folders(package: str, content: str, setting: str) -> list[str]:
    folders = _find_folders(package)
    if not folders:
        raise ConfigurationError(
            f"there is no package {package!r} with {content} here; start from the folder that holds it, "
            f"or set {setting} to the package's name"
        )
    return folders


def _find_folders(package: str) -> list[str]:
    """Return the folders of the package's modules; empty if there is no such package."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def _pop_modules(package: str) -> dict[str, ModuleType]:
    inside = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
    return {name: sys.modules.pop(name) for name in inside}


def _load_recursively(name: str, folders: Sequence[str] = ()) -> Iterator[BrokenModule]:
    """Import a module and its submodules, in the order of their names; skip the submodules of one that fails."""
    failure = _import_module(name)
    if failure is not None:
        yield failure
        return
    # The order is equal in every process, independent of earlier imports.
    for child in sorted(_list_children(folders)):
        if "." in child:
            yield BrokenModule(
                f"{name}.{child}", child, "a folder with a dot in its name cannot be imported: rename it", ""
            )
            continue
        spec = importlib.util.find_spec(f"{name}.{child}")
        yield from _load_recursively(f"{name}.{child}", list(spec.submodule_search_locations or ()) if spec else ())


def _list_children(folders: Sequence[str]) -> set[str]:
    """Return the names of the modules in these folders, and of folders with modules, which need no `__init__.py`."""
    names = {module.name for module in pkgutil.iter_modules(folders)}
    for folder in folders:
        names |= {path.name for path in Path(folder).iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    return {name for name in names if not name.startswith((".", "__"))}


def _import_module(name: str) -> BrokenModule | None:
    try:
        importlib.import_module(name)
    except BaseException as error:  # any exception of a users' module (SystemExit, too) concerns that module only
        if isinstance(error, KeyboardInterrupt) and _is_from_signal(error):
            raise
        location = _locate_failure(error)
        # The text of an invalid declaration begins with its place.
        message = _describe_exception(error).removeprefix(f"{location}: ")
        return BrokenModule(name, location, message, _format_traceback(error))
    return None


def _is_from_signal(error: BaseException) -> bool:
    """Return whether Ctrl-C has raised the exception, not a statement of a module."""
    frames = traceback.extract_tb(error.__traceback__)
    return not frames or not (frames[-1].line or "").startswith("raise ")


def _locate_failure(error: BaseException) -> str:
    """Return the file and line where an import stopped: the last line of users' code, or that of a syntax error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_to_relative_path(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_user_code(frame.filename)]
    return f"{_to_relative_path(own[-1].filename)}:{own[-1].lineno}" if own else "its folder"


def _describe_exception(error: BaseException) -> str:
    """Return the exception's type and text; of a `ConfigurationError` the text, which is a sentence by itself."""
    return str(error) if isinstance(error, ConfigurationError) else traceback.format_exception_only(error)[-1].strip()


def _format_traceback(error: BaseException) -> str:
    """Return the traceback as Python prints it, from the users' code on; of a `ConfigurationError` that code alone."""
    begin = error.__traceback__
    while begin is not None and not _is_user_code(begin.tb_frame.f_code.co_filename):
        begin = begin.tb_next
    if isinstance(error, ConfigurationError):
        own = [frame for frame in traceback.extract_tb(begin) if _is_user_code(frame.filename)]
        return "".join(
            ["Traceback (most recent call last):\n", *traceback.format_list(own), f"ConfigurationError: {error}"]
        )
    return "".join(traceback.format_exception(type(error), error, begin)).rstrip()


def _is_user_code(file: str) -> bool:
    """Return whether a file is neither JobWorker's nor Python's nor that of an installed package."""
    return not file.startswith("<") and not any(folder in Path(file).parents for folder in _LIBRARY_FOLDERS)


def _to_relative_path(file: str) -> str:
    """Return the path relative to the current folder, if possible."""
    with contextlib.suppress(ValueError):
        return str(Path(file).relative_to(Path.cwd()))
    return file
