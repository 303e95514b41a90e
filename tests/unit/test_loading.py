"""Import of user modules: in one order, and complete even if modules raise."""

import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import _state

from jobworker import loading
from jobworker.domain.errors import ConfigurationError
from jobworker.worker.celery.task import JobApp


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a package `work` in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "__init__.py").touch()
    yield tmp_path / "work"
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("code", "place", "error"),
    [
        ("import sys\nsys.exit(3)", "work/bad.py:2", "SystemExit: 3"),
        ("raise SystemExit", "work/bad.py:1", "SystemExit"),
        ("raise GeneratorExit", "work/bad.py:1", "GeneratorExit"),
        ("raise KeyboardInterrupt", "work/bad.py:1", "KeyboardInterrupt"),
        ("class Odd(BaseException): ...\n\n\nraise Odd('x')", "work/bad.py:4", "work.bad.Odd: x"),
        ("x = 1\ndef f(:\n    pass", "work/bad.py:2", "SyntaxError: invalid syntax"),
        ("import nowhere", "work/bad.py:1", "ModuleNotFoundError: No module named 'nowhere'"),
        ("import json\njson.loads('')", "work/bad.py:2", "json.decoder.JSONDecodeError"),
        (
            "from jobworker import job\n\n\n@job(priority=12)\ndef bad():\n    pass",
            "work/bad.py:4",
            "@job bad: /priority: priority must be 0 to 9; 9 is most urgent",
        ),
    ],
)
def test_broken_module_reported_with_place_and_others_imported(folder: Path, code: str, place: str, error: str) -> None:
    (folder / "bad.py").write_text(code)
    for name in ("a", "z"):
        (folder / f"{name}.py").touch()
    [broken] = loading.load_modules("work")
    assert broken.module == "work.bad"
    assert place in broken.location
    assert broken.error.startswith(error)
    assert error in broken.traceback
    assert "importlib" not in broken.traceback
    assert "jobworker/declare" not in broken.traceback
    assert {"work.a", "work.z"} <= set(sys.modules)


def test_keyboard_interrupt_of_user_ends_loading(folder: Path) -> None:
    # SIGINT may be ignored, as in a background process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    (folder / "slow.py").write_text("import os, signal\n\nos.kill(os.getpid(), signal.SIGINT)")
    try:
        with pytest.raises(KeyboardInterrupt):
            loading.load_modules("work")
    finally:
        signal.signal(signal.SIGINT, before)


def test_folders_without_init_loaded_and_failing_package_reported_once(folder: Path) -> None:
    seen = "import work.order; work.order.SEEN.append(__name__)"
    for name in (
        "plain/deep",
        "above/below",
        "package",
        "__pycache__",
        ".hidden",
        "dotted.name",
        "no-identifier",
        "empty",
    ):
        (folder / name).mkdir(parents=True)
    for name in ("plain/one", "plain/deep/two", "above/below/three", "no-identifier/four"):
        (folder / f"{name}.py").write_text(seen)
    for name in (".hidden", "__pycache__", "dotted.name"):
        (folder / name / "five.py").write_text("1/0")
    (folder / "package" / "__init__.py").write_text("1/0")
    (folder / "package" / "six.py").touch()
    (folder / "order.py").write_text("SEEN = []")
    dotted, broken = loading.load_modules("work")
    assert str(dotted) == "dotted.name: a folder with a dot in its name cannot be imported: rename it"
    assert (broken.module, broken.location) == ("work.package", "work/package/__init__.py:1")
    names = ["above.below.three", "no-identifier.four", "plain.deep.two", "plain.one"]
    assert [f"work.{name}" for name in names] == sys.modules["work.order"].SEEN


def test_duplicate_job_name_rejected_with_first_place(folder: Path) -> None:
    code = "from jobworker import job\n\n\n@job(name='loading-twice')\ndef {}():\n    pass\n"
    (folder / "b.py").write_text(code.format("second"))
    (folder / "a.py").write_text(code.format("first"))
    [broken] = loading.load_modules("work")
    assert broken.module == "work.b"
    message = f"job loading-twice: first in {folder / 'a.py'} has this name already; give one of them another name"
    assert message in broken.error


def test_name_of_builtin_job_rejected(folder: Path) -> None:
    (folder / "a.py").write_text("from jobworker import job\n\n\n@job(name='http.request')\ndef mine():\n    pass\n")
    import jobworker.worker.builtin.http  # noqa: F401

    [broken] = loading.load_modules("work")
    assert "http_request in " in broken.error


def test_duplicate_shared_task_name_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from celery import shared_task\n\n\n@shared_task(name='loading-shared')\ndef {}():\n    pass\n"
    (folder / "a.py").write_text(code.format("first"))
    (folder / "b.py").write_text(code.format("second"))
    # Otherwise later apps would register both tasks.
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))
    app = JobApp("test", set_as_current=False)
    app.finalize()
    [broken] = loading.load_modules("work")
    assert broken.location == "work/b.py:4"
    assert f"job loading-shared: first in {folder / 'a.py'} has this name already" in broken.error


@pytest.mark.parametrize("name", ["x" * 256, "two\nlines"])
def test_invalid_plain_task_name_rejected(name: str) -> None:
    app = JobApp("test", set_as_current=False)
    app.finalize()
    with pytest.raises(ConfigurationError, match="a name has 1 to 255 printable characters"):
        app.task(name=name, shared=False)(lambda: None)


def test_logging_and_streams_restored_after_import(folder: Path) -> None:
    code = """
import logging, logging.config, sys
logging.basicConfig(force=True, level="CRITICAL")
logging.config.dictConfig({"version": 1, "root": {"handlers": []}})
logging.disable(logging.CRITICAL)
logging.getLogger().addHandler(logging.NullHandler())
sys.stdout = sys.stderr = None
"""
    (folder / "a.py").write_text(code)
    root, heard = logging.getLogger(), logging.getLogger("heard")
    before, level, streams = root.handlers[:], root.level, (sys.stdout, sys.stderr)
    try:
        assert loading.load_modules("work") == []
        assert root.handlers[: len(before)] == before
        assert isinstance(root.handlers[-1], logging.NullHandler)
        assert (root.level, root.manager.disable, heard.disabled) == (level, 0, False)
        assert (sys.stdout, sys.stderr) == streams
    finally:
        root.handlers[:] = before
