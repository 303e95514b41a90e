"""Full disk on a real file system: the errors meanwhile, and the recovery once space is free."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.clock import SystemClock
from jobworker.services import doctor
from jobworker.services.doctor import DoctorLevel
from jobworker.store import migrate
from jobworker.store.database.database import Database
from tests.conftest import skip_or_fail
from tests.integration.http.conftest import create_api_driver, insert_export_job, make_settings
from tests.integration.http.test_operations import _list_failed_checks, _record_activity
from tests.polling import wait_until
from tests.servers import RedisServer, run_server

#: Size of the file system (MiB): the database, Redis's data, and some free space.
_DISK_MEGABYTES = 16


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount point of a small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MEGABYTES}m", "jobworker-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        skip_or_fail(f"a small file system cannot be mounted here (root only): {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill_disk(path: Path) -> None:
    """Fill the disk to the last byte."""
    with path.open("ab", buffering=0) as file:
        for size in (1024 * 1024, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    assert shutil.disk_usage(path).free == 0


def test_full_disk_is_reported_and_service_recovers(disk: Path) -> None:
    url = f"sqlite:///{disk}/jobworker.db"
    migrate.upgrade(url)
    database, server = Database(url), RedisServer(disk / "redis", persistent=True)
    insert_export_job(database)
    with run_server(server):
        settings = {"REDIS_URL": server.url, "HOME": str(disk / "home"), "MAX_BODY": "100000"}
        api = create_api_driver(database, **settings)
        api.insert_worker()
        _record_activity(api)
        assert api.client.get("/readyz").status_code == 200

        _record_activity(api, relay_age=60)
        _fill_disk(disk / "filling")
        with server.create_client() as client:
            client.set("anything", os.urandom(10_000))
        assert api.submit().status_code == 503
        wait_until(
            lambda: {"database", "disk", "redis"} <= _list_failed_checks(api.client.get("/readyz")),
            what="all to be noticed",
        )
        response = api.client.get("/readyz")
        assert (response.status_code, response.json["status"]) == (503, "unready")
        assert _list_failed_checks(response) == {"database", "disk", "redis", "relay"}
        details = {name: check["detail"] for name, check in response.json["checks"].items()}
        assert details["database"].startswith(f"the database ({disk}) does not accept writes: database or disk is full")
        assert f"0 MiB free for database in {disk}, 0 MiB free for files in {disk}/home" in details["disk"]
        assert "MISCONF" in details["redis"]
        assert "aof_last_write_status err" in details["redis"]
        findings = list(doctor.examine_installation(make_settings(url, **settings), SystemClock()))
        assert {"database", "disk", "redis"} <= {
            finding.subject for finding in findings if finding.level is DoctorLevel.FAIL
        }

        (disk / "filling").unlink()
        wait_until(lambda: not _list_failed_checks(api.client.get("/readyz")) - {"relay"}, what="all to be well again")
        assert api.submit().status_code == 202
    database.dispose()
