"""Recording of progress and metadata of running jobs in SQL. Runs inside the turn's transaction."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
import structlog

from jobworker.domain.executions import metadata
from jobworker.domain.executions.events import Event, EventKind
from jobworker.domain.executions.execution import FINAL_STATES
from jobworker.domain.executions.metadata import MAX_METADATA_BYTES
from jobworker.domain.json import json_values
from jobworker.store.executions import progress
from jobworker.store.executions.progress import ExecutionProgress

logger = structlog.get_logger(__name__)


def record_progress(connection: sa.Connection, reports: Sequence[Event]) -> None:
    """Record progress and metadata, before the state changes that came with them.

    Events of an older attempt than the latest one, or of an execution in a final state, are ignored.
    """
    news = list(_extract_updates(reports))
    if not news:
        return
    before = progress.get_many(connection, {event.execution for event, _, _ in news})
    after: dict[str, ExecutionProgress] = {}
    for event, progress_data, changes in news:
        row = after.get(event.execution) or before.get(event.execution)
        if (
            row is None
            or row.state in FINAL_STATES
            or event.attempt < row.attempt
            or not _is_acceptable(event, progress_data, changes)
        ):
            continue
        if progress_data:
            row = replace(
                row, progress={name: progress_data.get(name) for name in _PROGRESS_FIELDS} | {"attempt": event.attempt}
            )
        if changes:
            row = _with_metadata(event, row, changes)
        after[event.execution] = row
    progress.update(connection, after)


_PROGRESS_FIELDS = ("done", "total", "message")


def _extract_updates(reports: Iterable[Event]) -> Iterator[tuple[Event, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield (event, progress, metadata changes) of each event that contains either."""
    for event in reports:
        if event.kind is EventKind.PROGRESS:
            yield event, event.data, {}
        elif event.kind is EventKind.METADATA:
            yield event, {}, event.data
        elif "progress" in event.data or "metadata" in event.data:
            yield event, _get_mapping(event, "progress"), _get_mapping(event, "metadata")


def _is_acceptable(event: Event, progress_data: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Return whether SQL can store the values.

    The worker has checked them, too; a value that it missed would otherwise prevent recording the end of the attempt.
    """
    try:
        json_values.check([dict(progress_data), dict(changes)])
    except json_values.UnacceptableValue as error:
        logger.error("event_unreadable", event_id=event.id, error=str(error), execution=event.execution)
        return False
    return True


def _get_mapping(event: Event, name: str) -> Mapping[str, Any]:
    mapping = event.data.get(name) or {}
    if isinstance(mapping, Mapping):
        return mapping
    logger.error("event_unreadable", event_id=event.id, error=f"{name} is not an object", execution=event.execution)
    return {}


def _with_metadata(event: Event, row: ExecutionProgress, changes: Mapping[str, Any]) -> ExecutionProgress:
    merged = metadata.merge_changes(row.metadata, changes)
    if metadata.compute_size(merged) > MAX_METADATA_BYTES:
        # The job's call already raised this error; two attempts that ran at the same time may exceed the limit
        # together.
        logger.warning("metadata_too_large", execution=event.execution, attempt=event.attempt)
        return row
    return replace(row, metadata=merged)
