"""Reading a Procfile."""

from pathlib import Path

import pytest

from jobworker.domain.errors import ConfigurationError
from jobworker.up import procfile
from jobworker.up.procfile import Service
from tests.up_process import ROOT


def _write_procfile(folder: Path, text: str) -> Path:
    path = folder / "Procfile"
    path.write_text(text)
    return path


def test_services_read_in_order(tmp_path: Path) -> None:
    path = _write_procfile(tmp_path, "# what runs\n\nweb: serve --port 1\nworker2: work; echo done\n")

    assert procfile.read(path) == [Service("web", "serve --port 1"), Service("worker2", "work; echo done")]


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("celery -A jobworker worker", "exec celery -A jobworker worker"),
        ("serve --port $PORT", "exec serve --port $PORT"),
        ('serve \'a;b\' "c&\\"d"', 'exec serve \'a;b\' "c&\\"d"'),
        ("cd x && serve", "cd x && serve"),
        ("serve 'a;b'; echo", "serve 'a;b'; echo"),
        ("A=1 serve", "A=1 serve"),
    ],
)
def test_simple_command_replaces_shell_by_exec(command: str, script: str) -> None:
    assert Service("web", command).script == script


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names no process"),
        ("web: a\nweb: b\n", "unique"),
        ("web: a\nserve the web\n", "line 2: `serve the web`"),
    ],
)
def test_invalid_procfile_rejected(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        procfile.read(_write_procfile(tmp_path, text))


def test_missing_procfile_error_names_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="in the folder which has the Procfile"):
        procfile.read(tmp_path / "Procfile")


def test_shipped_procfile_names_five_processes() -> None:
    assert [service.name for service in procfile.read(ROOT / "Procfile")] == [
        "web",
        "relay",
        "worker",
        "beat",
        "flower",
    ]
