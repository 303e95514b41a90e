"""Files of JobWorker's processes are readable by their user alone, independent of the inherited umask."""

import subprocess
import sys
from pathlib import Path

from jobworker.files.local import LocalFiles

_ENTRY_POINTS = """
import os, sys

sys.argv = ["celery", "worker"]
import jobworker.celery
umasks = [os.umask(0)]
from jobworker.web import create_app
create_app()
umasks.append(os.umask(0))
from jobworker.cli import main
main(["backup", "--help"], standalone_mode=False)
umasks.append(os.umask(0))
print(*map(oct, umasks))
"""


def test_entry_points_set_umask(tmp_path: Path) -> None:
    code = [sys.executable, "-c", _ENTRY_POINTS]
    environment = {"JOBWORKER_HOME": str(tmp_path)}
    done = subprocess.run(code, env=environment, umask=0, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0o77 0o77 0o77"


def test_importing_celery_app_keeps_umask(tmp_path: Path) -> None:
    code = [sys.executable, "-c", "import os, jobworker.celery; print(oct(os.umask(0)))"]
    environment = {"JOBWORKER_HOME": str(tmp_path)}
    done = subprocess.run(code, env=environment, umask=0o022, check=True, capture_output=True, text=True)
    assert done.stdout == "0o22\n"


def test_readable_files_folder_made_private(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files").chmod(0o755)
    LocalFiles(tmp_path, "any").save("result.json", b"[]")
    assert (tmp_path / "files").stat().st_mode & 0o777 == 0o700
