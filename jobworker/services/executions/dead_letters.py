"""Use cases of dead letters: list, redrive, discard, rerun."""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import ExecutionNotFinished, FieldError, InvalidInput, NotADeadLetter, UniqueKeyConflict
from jobworker.domain.executions.dead_letter import DeadLetterStatus
from jobworker.domain.executions.execution import FINAL_STATES
from jobworker.domain.json import json_reader
from jobworker.services.bulk import actions
from jobworker.services.bulk.actions import BulkAction, BulkFailure, BulkResult, ChunkResult, Selection
from jobworker.services.executions import executions as execution_services
from jobworker.services.submissions.reruns import Rerunner
from jobworker.store import audit
from jobworker.store.audit import AuditEntry
from jobworker.store.database.database import Database
from jobworker.store.executions import dead_letters, executions
from jobworker.store.executions.dead_letters import DeadLetterGroup, DeadLetterRow
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.store.executions.executions import ExecutionRow, NewExecution
from jobworker.store.pagination import DEFAULT_LIMIT, Page

#: Maximum and minimum rate of reruns (executions per second).
_MAX_RATE, _MIN_RATE = 1000.0, 1 / 3600

_MAX_NOTE_LENGTH = 1000

_OPEN_DEAD_LETTERS = BulkAction(
    "dead-letters", [dead_letters.IS_OPEN], "not_a_dead_letter", "is not an open dead letter"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveOptions:
    """Options of a redrive: JSON merge patch for the parameters, rate (reruns per second) and note."""

    patch: Mapping[str, Any] = field(default_factory=dict)
    rate: float | None = None
    note: str | None = None

    def check(self) -> None:
        """Raise `InvalidInput` if the rate or the note is not allowed."""
        rate = self.rate
        if rate is not None and not (math.isfinite(rate) and _MIN_RATE <= rate <= _MAX_RATE):
            message = f"rate must be one an hour to {_MAX_RATE:g} a second"
            raise InvalidInput(message, [FieldError("/rate", "not_allowed", message)])
        check_note(self.note)


def check_note(note: str | None) -> None:
    """Raise `InvalidInput` unless the note can be stored with a dead letter."""
    if note is not None and not 0 < len(note) <= _MAX_NOTE_LENGTH:
        message = f"note must have 1 to {_MAX_NOTE_LENGTH} characters"
        raise InvalidInput(message, [FieldError("/note", "not_allowed", message)])
    json_reader.check_note(note)


def list_page(
    database: Database, filters: ExecutionFilters, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[DeadLetterRow]:
    """Return a page of the open dead letters that match the filters, newest first."""
    with database.read() as connection:
        return dead_letters.list_page(connection, filters, limit, cursor)


def list_groups(database: Database, limit: int = DEFAULT_LIMIT) -> list[DeadLetterGroup]:
    """Return open dead letters grouped by fingerprint, the largest groups first."""
    with database.read() as connection:
        return dead_letters.list_groups(connection, limit)


def redrive(database: Database, clock: Clock, selection: Selection, options: RedriveOptions, actor: str) -> BulkResult:
    """Rerun open dead letters, each as a new execution; dead letters that are closed stay as they are.

    A dead letter that cannot be rerun stays open and is reported as a problem; the others are rerun.
    """
    options.check()
    begin = actions.parse_cursor(_OPEN_DEAD_LETTERS, selection)
    now = clock.now()
    first = max(now, begin.until + dt.timedelta(seconds=1 / options.rate)) if options.rate and begin.until else now
    rerunner = Rerunner(now, options.patch, options.rate, first if options.rate else None)

    def work(ids: Sequence[str]) -> ChunkResult:
        with database.read() as connection:
            rows = [row for row in executions.get_many(connection, ids) if row.dead_letter == DeadLetterStatus.OPEN]
            rerunner.load_catalog(connection, rows)
        reruns, refused = rerunner.prepare_all(rows)
        if selection.dry_run:
            return ChunkResult(
                dict.fromkeys(execution.rerun_of or "" for execution in reruns), refused, rerunner.last_due
            )
        done, kept_out = _insert_reruns(database, rerunner, reruns, options, actor)
        return ChunkResult(done, [*refused, *kept_out], rerunner.last_due)

    return actions.run_in_chunks(database, _OPEN_DEAD_LETTERS, selection, work)


def discard(database: Database, clock: Clock, selection: Selection, note: str | None, actor: str) -> BulkResult:
    """Close open dead letters as discarded."""
    check_note(note)
    now = clock.now()

    def work(ids: Sequence[str]) -> ChunkResult:
        if selection.dry_run:
            return ChunkResult(dict.fromkeys(ids))
        with database.write() as connection:
            closed_ids = dead_letters.close(connection, ids, DeadLetterStatus.DISCARDED, actor, note, now)
            if closed_ids:
                _record_audit(connection, "dead_letters.discard", actor, now, {"ids": sorted(closed_ids), "note": note})
        return ChunkResult(dict.fromkeys(sorted(closed_ids)))

    return actions.run_in_chunks(database, _OPEN_DEAD_LETTERS, selection, work)


def discard_one(database: Database, clock: Clock, execution_id: str, note: str | None, actor: str) -> ExecutionRow:
    """Close an open dead letter as discarded; idempotent. Raises `NotADeadLetter`."""
    check_note(note)
    now = clock.now()
    row = execution_services.get(database, execution_id)
    if row.dead_letter == DeadLetterStatus.DISCARDED:
        return row
    with database.write() as connection:
        if not dead_letters.close(connection, [execution_id], DeadLetterStatus.DISCARDED, actor, note, now):
            became = f": it was {row.dead_letter}" if row.dead_letter else f": it is {row.state}"
            raise NotADeadLetter(f"execution {execution_id} is not an open dead letter{became}")
        _record_audit(connection, "dead_letters.discard", actor, now, {"ids": [execution_id], "note": note})
    return execution_services.get(database, execution_id)


def rerun(database: Database, clock: Clock, execution_id: str, options: RedriveOptions, actor: str) -> ExecutionRow:
    """Rerun an execution that has ended, in any final state and any number of times.

    If the execution is an open dead letter, it is closed as redriven. Raises `ExecutionNotFinished`, or the errors of
    preparing and inserting the rerun.
    """
    options.check()
    now = clock.now()
    row = execution_services.get(database, execution_id)
    if row.state not in FINAL_STATES:
        raise ExecutionNotFinished(f"execution {execution_id} is {row.state}; it can be run again when it has ended")
    rerunner = Rerunner(now, options.patch)
    with database.read() as connection:
        rerunner.load_catalog(connection, [row])
    new_execution = rerunner.prepare(row)
    with database.write() as connection:
        _, kept_out = rerunner.insert_reruns(connection, [new_execution], actor)
        if kept_out:
            raise UniqueKeyConflict(kept_out[0].message)
        dead_letters.close(connection, [execution_id], DeadLetterStatus.REDRIVEN, actor, options.note, now)
        _record_audit(
            connection, "execution.rerun", actor, now, _build_audit_details(options, {execution_id: new_execution.id})
        )
    return executions.build_inserted_row(new_execution, actor, now)


def _insert_reruns(
    database: Database, rerunner: Rerunner, new_executions: Sequence[NewExecution], options: RedriveOptions, actor: str
) -> tuple[dict[str, str | None], Sequence[BulkFailure]]:
    """Insert the reruns of dead letters that are still open and close these as redriven, in one transaction."""
    if not new_executions:
        return {}, ()
    with database.write() as connection:
        still_open = dead_letters.lock_open(connection, [execution.rerun_of or "" for execution in new_executions])
        accepted, kept_out = rerunner.insert_reruns(
            connection, [execution for execution in new_executions if execution.rerun_of in still_open], actor
        )
        reruns = {
            execution.rerun_of or "": execution.id
            for execution in sorted(accepted, key=lambda execution: execution.rerun_of or "")
        }
        if reruns:
            dead_letters.close(connection, list(reruns), DeadLetterStatus.REDRIVEN, actor, options.note, rerunner.now)
            _record_audit(
                connection, "dead_letters.redrive", actor, rerunner.now, _build_audit_details(options, reruns)
            )
    return dict(reruns), kept_out


def _build_audit_details(options: RedriveOptions, reruns: Mapping[str, str]) -> dict[str, Any]:
    return {"reruns": dict(reruns), "patch": dict(options.patch), "rate": options.rate, "note": options.note}


def _record_audit(
    connection: sa.Connection, action: str, actor: str, now: dt.datetime, after: Mapping[str, Any]
) -> None:
    audit.record(connection, AuditEntry(now, actor, action, "dead-letters", None, after))
