"""Files of jobs: listed and downloaded on their host, and named with their host elsewhere."""

import hashlib
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from jobworker.clock import SystemClock
from jobworker.files.local import LocalFiles
from jobworker.store.database.database import Database
from tests.integration.http.conftest import ApiDriver, create_api_driver, insert_export_job

HERE = socket.gethostname()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Folder in which workers of this host and the API store files."""
    return tmp_path / "home"


@pytest.fixture
def api(database: Database, home: Path) -> ApiDriver:
    """Driver for the application with that home, on SQLite, then on PostgreSQL."""
    insert_export_job(database)
    return create_api_driver(database, HOME=str(home))


@pytest.fixture
def execution(api: ApiDriver) -> str:
    """Id of an execution that has succeeded."""
    execution_id: str = api.submit_accepted()["id"]
    api.enter_state(execution_id, 1, "Succeeded", worker="w1", finished_at=SystemClock().now())
    return execution_id


def _set_worker_host(api: ApiDriver, host: str) -> None:
    if not api.count_rows("workers"):
        api.insert_worker("w1")
    with api.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE workers SET host = '{host}'")


def _get_file(api: ApiDriver, execution: str, name: str, **options: Any) -> Any:
    return api.client.get(f"/api/v1/executions/{execution}/files/{name}", **options)


def test_long_result_is_listed_and_downloaded(api: ApiDriver, execution: str, home: Path) -> None:
    text = b'"' + b"x" * 100_000 + b'"'
    file = LocalFiles(home, execution).save_result(1, text)
    saved = home / "files" / execution / file["name"]
    assert [path.stat().st_mode & 0o777 for path in (saved, saved.parent, saved.parent.parent)] == [0o600, 0o700, 0o700]
    api.update_execution(execution, result_file=file)
    url = f"/api/v1/executions/{execution}/files/result-1.json"
    description = api.client.get(f"/api/v1/executions/{execution}/result").json
    assert (description["result"], description["result_file"]) == (None, {**file, "url": url})
    assert api.client.get(f"/api/v1/executions/{execution}").json["result_file"]["url"] == url

    answer = api.client.get(url)
    assert (answer.status_code, answer.data) == (200, text)
    assert answer.headers["Content-Length"] == str(len(text))
    assert answer.headers["ETag"] == f'"{hashlib.sha256(text).hexdigest()}"'
    assert api.client.get(url, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    assert api.client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_downloaded_file_is_never_rendered_by_browsers(api: ApiDriver, execution: str, home: Path) -> None:
    LocalFiles(home, execution).save('na"me;é.html', "<script>alert(1)</script>")
    [item] = api.client.get(f"/api/v1/executions/{execution}/files").json["items"]
    answer = api.client.get(item["links"]["self"])
    assert answer.data == b"<script>alert(1)</script>"
    assert answer.mimetype == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"].startswith("attachment;")


def test_files_are_listed_by_name_in_pages(api: ApiDriver, execution: str, home: Path) -> None:
    files = LocalFiles(home, execution)
    for name in ("b.txt", "a.txt", "c.txt"):
        files.save(name, name)
    (home / "files" / execution / ".unfinished.7").write_text("half")
    (home / "files" / execution / "folder").mkdir()
    first = api.client.get(f"/api/v1/executions/{execution}/files?limit=2").json
    second = api.client.get(f"/api/v1/executions/{execution}/files?limit=2&cursor={first['next']}").json
    assert [item["name"] for page in (first, second) for item in page["items"]] == ["a.txt", "b.txt", "c.txt"]
    assert second["next"] is None
    item = first["items"][0]
    assert (item["size"], item["sha256"], item["host"], item["here"]) == (5, None, HERE, True)


def test_execution_without_files_returns_an_empty_list(api: ApiDriver, execution: str) -> None:
    assert api.client.get(f"/api/v1/executions/{execution}/files").json == {"items": [], "next": None}
    answer = _get_file(api, execution, "none.txt")
    assert (answer.status_code, answer.json["code"]) == (404, "file_not_found")


def test_result_file_on_another_host_is_listed_but_not_served(api: ApiDriver, execution: str) -> None:
    file = {"name": "result-1.json", "size": 100_000, "sha256": "ab", "host": "far-away"}
    api.update_execution(execution, result_file=file)
    [item] = api.client.get(f"/api/v1/executions/{execution}/files").json["items"]
    assert (item["here"], item["host"], item["modified_at"]) == (False, "far-away", None)
    answer = _get_file(api, execution, "result-1.json")
    assert (answer.status_code, answer.json["code"]) == (404, "file_elsewhere")
    assert f"$JOBWORKER_HOME/files/{execution}/result-1.json on far-away" in answer.json["detail"]
    assert HERE in answer.json["detail"]


def test_unknown_file_of_another_host_returns_file_elsewhere(api: ApiDriver, execution: str) -> None:
    _set_worker_host(api, "far-away")
    answer = _get_file(api, execution, "report.csv")
    assert answer.json["code"] == "file_elsewhere"
    assert "ran on far-away" in answer.json["detail"]
    _set_worker_host(api, HERE)
    assert _get_file(api, execution, "report.csv").json["code"] == "file_not_found"


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2f..%2fsecret", "%2fetc%2fpasswd", ".hidden", "a%00b", "a%0ab", "folder", "x" * 256]
)
def test_file_name_cannot_leave_the_folder(api: ApiDriver, execution: str, home: Path, name: str) -> None:
    LocalFiles(home, execution).save("a.txt", "a")
    (home / "secret").write_text("secret")
    (home / "files" / execution / ".hidden").write_text("secret")
    (home / "files" / execution / "folder").mkdir()
    answer = _get_file(api, execution, name)
    assert answer.status_code in (404, 308), answer.data
    assert b"secret" not in answer.data


def test_symbolic_links_and_pipes_are_not_served(api: ApiDriver, execution: str, home: Path) -> None:
    LocalFiles(home, execution).save("a.txt", "a")
    folder = home / "files" / execution
    (home / "secret").write_text("secret")
    (folder / "link").symlink_to(home / "secret")
    os.mkfifo(folder / "pipe")
    assert [item["name"] for item in api.client.get(f"/api/v1/executions/{execution}/files").json["items"]] == ["a.txt"]
    for name in ("link", "pipe"):
        assert _get_file(api, execution, name).json["code"] == "file_not_found"


def test_files_of_unknown_execution_return_404(api: ApiDriver) -> None:
    for execution in ("nobody", "..", "00000000-0000-7000-8000-000000000000"):
        for path in ("files", "files/a.txt"):
            answer = api.client.get(f"/api/v1/executions/{execution}/{path}")
            assert answer.status_code == 404
