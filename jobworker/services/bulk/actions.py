"""Bulk actions: the selection of executions, and their processing in bounded transactions.

A request processes at most `MAX_EXECUTIONS` executions, `CHUNK_SIZE` per transaction, so that neither the relay nor
other writers wait for long. The result contains the number of executions left and a cursor to continue from. Each
execution is processed once: an execution that the action leaves unchanged is not selected again.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.ids import is_id
from jobworker.store.database.database import Database
from jobworker.store.executions import execution_filters
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.store.pagination import Paginator, parse_id_key, parse_time_key
from jobworker.store.tables import core

#: Maximum number of executions per request, and per transaction.
MAX_EXECUTIONS = 10_000
CHUNK_SIZE = 500

#: Maximum number of processed executions, and of problems, in a result.
_SAMPLE_SIZE = 10
_MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Selection of executions by ids, by filters, or (only with `all`) of all.

    `cursor` is the `next` of the previous request's result.
    """

    ids: Sequence[str] | None = None
    filters: ExecutionFilters | None = None
    all: bool = False
    limit: int = MAX_EXECUTIONS
    cursor: str | None = None
    dry_run: bool = False

    def check(self) -> None:
        """Raise `InvalidInput` unless exactly one of ids, filters and `all` is given, within the bounds."""
        empty = self.filters is None or self.filters == ExecutionFilters()
        selectors = [
            name for name, is_given in (("ids", self.ids), ("filter", not empty), ("all", self.all)) if is_given
        ]
        if len(selectors) > 1:
            message = f"give one of {', '.join(selectors)}, not several"
            raise InvalidInput(message, [FieldError(f"/{selectors[1]}", "ambiguous", message)])
        if not selectors:
            message = 'give ids or a filter; {"all": true} selects every execution'
            raise InvalidInput(message, [FieldError("/filter", "missing", message)])
        if self.ids is not None:
            _check_ids(self.ids)
        if not 0 < self.limit <= MAX_EXECUTIONS:
            message = f"limit must be 1 to {MAX_EXECUTIONS}"
            raise InvalidInput(message, [FieldError("/limit", "not_allowed", message)])

    def build_listing(self, action: str) -> "Paginator[BulkCursor]":
        """Return the paginator whose cursors are valid for this action and selection."""
        filter_fields = asdict(self.filters) if self.filters else {}
        return Paginator(action, {**filter_fields, "ids": sorted(self.ids) if self.ids else None}, BulkCursor.parse)


@dataclass(frozen=True, slots=True)
class BulkFailure:
    """An execution that was left unchanged, and the reason."""

    id: str
    pointer: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """Result of one chunk: processed executions (id → id of the rerun, if any), and failures.

    `until`: due time of the last rerun, if a rate spreads them.
    """

    done: Mapping[str, str | None]
    refused: Sequence[BulkFailure] = ()
    until: dt.datetime | None = None


@dataclass(slots=True)
class BulkResult:
    """Result of a bulk request.

    `matched`: number of selected executions by state, of this request and those after it. `left`: number of them that
    remain for the next request. `until`: due time of the last rerun, if a rate spreads them.
    """

    dry_run: bool
    matched: dict[ExecutionState, int]
    left: int = 0
    done: int = 0
    refused: int = 0
    sample: list[tuple[str, str | None]] = field(default_factory=list)
    problems: list[BulkFailure] = field(default_factory=list)
    until: dt.datetime | None = None
    next: str | None = None

    def add(self, part: ChunkResult) -> None:
        """Add the result of a chunk."""
        self.done += len(part.done)
        self.refused += len({failure.id for failure in part.refused})
        self.sample.extend(list(part.done.items())[: _SAMPLE_SIZE - len(self.sample)])
        self.problems.extend(part.refused[: _MAX_PROBLEMS - len(self.problems)])
        self.until = part.until or self.until


@dataclass(frozen=True, slots=True)
class BulkAction:
    """A bulk action: its name, and the condition that executions must meet.

    `code` and `refusal` are the error code and message for executions that do not meet the condition.
    """

    name: str
    where: Sequence[Any]
    code: str
    refusal: str


@dataclass(frozen=True, slots=True)
class BulkCursor:
    """End of the previous request: its last id, and the due time of its last rerun."""

    after: str | None = None
    until: dt.datetime | None = None

    @classmethod
    def parse(cls, key: str) -> "BulkCursor":
        """Parse the key of a cursor; raises `ValueError`."""
        after, _, until = key.partition(" ")
        return cls(parse_id_key(after), parse_time_key(until) if until else None)

    def to_key(self) -> str:
        """Return the key that `parse` accepts."""
        return f"{self.after} {self.until.isoformat()}" if self.until else str(self.after)


#: Handler of a chunk of execution ids; in a dry run it only determines the result.
ChunkHandler = Callable[[Sequence[str]], ChunkResult]


def parse_cursor(action: BulkAction, selection: Selection) -> BulkCursor:
    """Return the position where this request begins. Raises the problems of the selection."""
    selection.check()
    return selection.build_listing(action.name).parse_cursor(selection.cursor) or BulkCursor()


def run_in_chunks(database: Database, action: BulkAction, selection: Selection, handler: ChunkHandler) -> BulkResult:
    """Call `handler` for the executions of the selection, chunk by chunk."""
    begin = parse_cursor(action, selection)
    where = [*action.where, *_build_conditions(selection)]
    with database.read() as connection:
        done = BulkResult(selection.dry_run, execution_filters.count_by_state(connection, where, begin.after))
        chosen = execution_filters.list_ids(connection, where, begin.after, selection.limit)
        if selection.ids and selection.cursor is None:
            existing_ids = execution_filters.list_ids(
                connection, [_build_ids_condition(selection.ids)], None, MAX_EXECUTIONS
            )
            matching_ids = set(execution_filters.list_ids(connection, where, None, MAX_EXECUTIONS))
            done.add(
                ChunkResult(
                    {},
                    [
                        _build_failure(action, key, set(existing_ids))
                        for key in selection.ids
                        if key not in matching_ids
                    ],
                )
            )
    for start in range(0, len(chosen), CHUNK_SIZE):
        done.add(handler(chosen[start : start + CHUNK_SIZE]))
    done.left = sum(done.matched.values()) - len(chosen)
    if done.left:
        done.next = selection.build_listing(action.name).build_cursor(BulkCursor(chosen[-1], done.until).to_key())
    return done


def _build_conditions(selection: Selection) -> Iterator[Any]:
    if selection.ids is not None:
        yield _build_ids_condition(selection.ids)
    elif selection.filters is not None:
        yield from execution_filters.build_conditions(selection.filters)


def _build_ids_condition(ids: Sequence[str]) -> Any:
    return core.executions.c.id.in_(ids)


def _build_failure(action: BulkAction, key: str, existing_ids: set[str]) -> BulkFailure:
    if key in existing_ids:
        return BulkFailure(key, "/ids", action.code, f"execution {key} {action.refusal}")
    return BulkFailure(key, "/ids", "execution_not_found", f"there is no execution {key}")


def _check_ids(ids: Sequence[str]) -> None:
    if len(ids) > MAX_EXECUTIONS:
        message = f"ids must have at most {MAX_EXECUTIONS} items, not {len(ids)}"
        raise InvalidInput(message, [FieldError("/ids", "not_allowed", message)])
    wrong = [at for at, execution_id in enumerate(ids) if not is_id(execution_id)]
    if wrong:
        message = "ids must hold ids of executions"
        raise InvalidInput(message, [FieldError(f"/ids/{at}", "not_allowed", message) for at in wrong[:_MAX_PROBLEMS]])
