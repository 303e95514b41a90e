"""Files of executions that are stored on this host."""

import datetime as dt
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from jobworker.domain.errors import FileNotFound, FileOnOtherHost
from jobworker.files.local import LocalFile, LocalFiles
from jobworker.services.executions import executions
from jobworker.store import workers
from jobworker.store.database.database import Database
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_name_key


@dataclass(frozen=True, slots=True)
class ExecutionFile:
    """A file of an execution. Only results have `sha256`; a file of another host has no `modified_at`."""

    name: str
    size: int
    sha256: str | None
    modified_at: dt.datetime | None
    host: str
    here: bool


def list_page(
    database: Database, home: Path, execution_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[ExecutionFile]:
    """Return a page of the files on this host and the result file of any host, sorted by name.

    Raises `ExecutionNotFound`, `InvalidCursor`.
    """
    row = executions.get(database, execution_id)
    listing = Paginator("files", {"execution": execution_id}, parse_name_key)
    after = listing.parse_cursor(cursor) or ""
    files_by_name = {
        local_file.name: _to_execution_file(row, local_file) for local_file in LocalFiles(home, row.id).list_files()
    }
    if row.result_file and row.result_file["name"] not in files_by_name:
        file = row.result_file
        files_by_name[file["name"]] = ExecutionFile(
            file["name"], file["size"], file["sha256"], None, file["host"], here=False
        )
    names = sorted(name for name in files_by_name if name > after)
    return listing.build_page([files_by_name[name] for name in names[: limit + 1]], limit, lambda file: file.name)


def open_file(database: Database, home: Path, execution_id: str, name: str) -> tuple[IO[bytes], ExecutionFile]:
    """Open a file of this host for reading. Raises `ExecutionNotFound`, `FileNotFound`, `FileOnOtherHost`."""
    row = executions.get(database, execution_id)
    opened_file = LocalFiles(home, row.id).open(name)
    if opened_file is None:
        raise _make_missing_error(database, row, name)
    stream, file = opened_file
    return stream, _to_execution_file(row, file)


def _to_execution_file(row: ExecutionRow, file: LocalFile) -> ExecutionFile:
    modified_at = dt.datetime.fromtimestamp(file.modified_at, dt.UTC)
    kept = ExecutionFile(file.name, file.size, None, modified_at, socket.gethostname(), here=True)
    recorded = row.result_file
    if recorded and (recorded["name"], recorded["size"]) == (file.name, file.size):
        return replace(kept, sha256=recorded["sha256"])
    return kept


def _make_missing_error(database: Database, row: ExecutionRow, name: str) -> FileNotFound | FileOnOtherHost:
    here = socket.gethostname()
    shown = repr(name if len(name) <= 100 else f"{name[:100]}…")
    recorded = row.result_file
    if recorded and recorded["name"] == name and recorded["host"] != here:
        where = f"$JOBWORKER_HOME/files/{row.id}/{name} on {recorded['host']}"
        return FileOnOtherHost(f"the result is in {where}; this host, {here}, does not have it")
    with database.read() as connection:
        ran_on = workers.get_host(connection, row.worker) if row.worker else None
    if ran_on not in (None, here):
        return FileOnOtherHost(f"{here} has no file {shown} of execution {row.id}, which ran on {ran_on}")
    return FileNotFound(f"there is no file {shown} of execution {row.id} on {here}")
