"""Example jobs that export data."""

import csv
import io
import json
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from jobworker import Context, job
from tasks import database

COLUMNS = ("id", "user_id", "name", "kind", "status", "created_at", "last_active_at")

#: Number of rows between two reports of progress.
_STEP = 100

#: First characters of a cell that a spreadsheet takes for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@job(
    queue="background",
    autoretry_for=(sqlite3.OperationalError, OSError),
    max_retries=5,
    retry_backoff=30,
    retry_backoff_max=3600,
    retry_jitter=True,
    time_limit=600,
)
def process_data_export(
    context: Context, user_id: str, format: Literal["csv", "json"] = "csv", email: str | None = None
) -> dict[str, Any]:
    """Write a user's entities to a file. The file is not mailed yet; `email` is returned in the result."""
    rows = list(_reported(context, user_id))
    data = _as_json(rows) if format == "json" else _as_csv(rows)
    saved = context.files.save(f"entities.{format}", data)
    context.log.info("%d entities of %s in %s", len(rows), user_id, saved.path)
    if email is not None:
        context.log.warning("nothing was mailed to %s: sending mail is not part of this example yet", email)
    return {"file": saved.path, "bytes": saved.size, "rows": len(rows), "email": email, "mailed": False}


def _reported(context: Context, user_id: str) -> Iterator[dict[str, Any]]:
    """Yield the user's entities, and report progress every `_STEP` rows."""
    with database.opened() as connection:
        # One consistent snapshot, so that the total is correct.
        connection.execute("BEGIN")
        total = connection.execute("SELECT count(*) FROM domain_entities WHERE user_id = ?", [user_id]).fetchone()[0]
        found = connection.execute(
            f"SELECT {', '.join(COLUMNS)} FROM domain_entities WHERE user_id = ? ORDER BY id", [user_id]
        )
        context.progress(0, total)
        for done, row in enumerate(found, start=1):
            yield dict(row)
            if done % _STEP == 0 or done == total:
                context.progress(done, total)


def _as_json(rows: Iterable[dict[str, Any]]) -> str:
    return json.dumps(list(rows), indent=2, ensure_ascii=False)


def _as_csv(rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
