"""Doing something to many executions: which are meant, and working them off in bounded transactions.

A request takes at most `MOST` executions, `CHUNK` in one transaction, so that neither the relay nor others
wait for long. What is left is said, with a cursor to go on from. Each execution is looked at once: those
that the action leaves as they are do not come up again.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.execution import State
from jobworker.domain.ids import is_id
from jobworker.store import filters as filtering
from jobworker.store import schema
from jobworker.store.database import Database
from jobworker.store.filters import Filters
from jobworker.store.pages import Listing, identifier_key, moment_key

#: So many executions one request works off, and one transaction.
MOST = 10_000
CHUNK = 500

#: So many executions that it concerned, and so many problems, an answer names.
_SAMPLE = 10
_TOLD = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which executions: these, or those that pass the filters, or, only if somebody says so, all.

    `cursor` is the `next` of the request before.
    """

    ids: Sequence[str] | None = None
    filters: Filters | None = None
    all: bool = False
    limit: int = MOST
    cursor: str | None = None
    dry_run: bool = False

    def check(self) -> None:
        """Raise `InvalidInput` unless it is clear what is meant."""
        empty = self.filters is None or self.filters == Filters()
        given = [name for name, is_given in (("ids", self.ids), ("filter", not empty), ("all", self.all)) if is_given]
        if len(given) > 1:
            message = f"give one of {', '.join(given)}, not several"
            raise InvalidInput(message, [FieldError(f"/{given[1]}", "ambiguous", message)])
        if not given:
            message = 'say which: ids, or a filter that names something; {"all": true} means every one'
            raise InvalidInput(message, [FieldError("/filter", "missing", message)])
        if self.ids is not None:
            _check_ids(self.ids)
        if not 0 < self.limit <= MOST:
            message = f"limit must be 1 to {MOST}"
            raise InvalidInput(message, [FieldError("/limit", "not_allowed", message)])

    def build_listing(self, action: str) -> "Listing[Bookmark]":
        """What a cursor of this action belongs to."""
        named = asdict(self.filters) if self.filters else {}
        return Listing(action, {**named, "ids": sorted(self.ids) if self.ids else None}, Bookmark.parse)


@dataclass(frozen=True, slots=True)
class Refused:
    """An execution that was left as it is, and why."""

    id: str
    pointer: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Part:
    """What came of one chunk: the executions it was done to (id → its rerun, if there is one), and the others.

    `until`: when the last of them is due, if they were put off.
    """

    done: Mapping[str, str | None]
    refused: Sequence[Refused] = ()
    until: dt.datetime | None = None


@dataclass(slots=True)
class Done:
    """What came of a request.

    `matched`: the executions that are meant, by their states, of this request and those after it. `left`: how many
    of them the next request would begin with. `until`: when the last one is due that was put off.
    """

    dry_run: bool
    matched: dict[State, int]
    left: int = 0
    done: int = 0
    refused: int = 0
    sample: list[tuple[str, str | None]] = field(default_factory=list)
    problems: list[Refused] = field(default_factory=list)
    until: dt.datetime | None = None
    next: str | None = None

    def add(self, part: Part) -> None:
        """Count a chunk."""
        self.done += len(part.done)
        self.refused += len({each.id for each in part.refused})
        self.sample.extend(list(part.done.items())[: _SAMPLE - len(self.sample)])
        self.problems.extend(part.refused[: _TOLD - len(self.problems)])
        self.until = part.until or self.until


@dataclass(frozen=True, slots=True)
class Action:
    """One kind of thing that can be done: its name, and of which executions (a condition, and what it is called)."""

    name: str
    where: Sequence[Any]
    code: str
    refusal: str


@dataclass(frozen=True, slots=True)
class Bookmark:
    """How far the request before has come: its last id, and the time from which on nothing is due yet."""

    after: str | None = None
    until: dt.datetime | None = None

    @classmethod
    def parse(cls, key: str) -> "Bookmark":
        """Parse the key of a cursor; raises `ValueError`."""
        after, _, until = key.partition(" ")
        return cls(identifier_key(after), moment_key(until) if until else None)

    def to_key(self) -> str:
        """The inverse of `read`."""
        return f"{self.after} {self.until.isoformat()}" if self.until else str(self.after)


#: Does something to these executions; in a dry run it finds out what would be done.
Work = Callable[[Sequence[str]], Part]


def bookmark(action: Action, selection: Selection) -> Bookmark:
    """Where this request begins; raises what is wrong with the selection."""
    selection.check()
    return selection.build_listing(action.name).parse_cursor(selection.cursor) or Bookmark()


def work_off(database: Database, action: Action, selection: Selection, work: Work) -> Done:
    """Do `work` to the executions of the selection, chunk by chunk."""
    begin = bookmark(action, selection)
    where = [*action.where, *_meant(selection)]
    with database.read() as connection:
        done = Done(selection.dry_run, filtering.count(connection, where, begin.after))
        chosen = filtering.ids(connection, where, begin.after, selection.limit)
        if selection.ids and selection.cursor is None:
            known = filtering.ids(connection, [_among(selection.ids)], None, MOST)
            meant = set(filtering.ids(connection, where, None, MOST))
            done.add(Part({}, [_not_meant(action, key, set(known)) for key in selection.ids if key not in meant]))
    for start in range(0, len(chosen), CHUNK):
        done.add(work(chosen[start : start + CHUNK]))
    done.left = sum(done.matched.values()) - len(chosen)
    if done.left:
        done.next = selection.build_listing(action.name).build_cursor(Bookmark(chosen[-1], done.until).to_key())
    return done


def _meant(selection: Selection) -> Iterator[Any]:
    if selection.ids is not None:
        yield _among(selection.ids)
    elif selection.filters is not None:
        yield from filtering.conditions(selection.filters)


def _among(ids: Sequence[str]) -> Any:
    return schema.executions.c.id.in_(ids)


def _not_meant(action: Action, key: str, known: set[str]) -> Refused:
    if key in known:
        return Refused(key, "/ids", action.code, f"execution {key} {action.refusal}")
    return Refused(key, "/ids", "execution_not_found", f"there is no execution {key}")


def _check_ids(ids: Sequence[str]) -> None:
    if len(ids) > MOST:
        message = f"ids must have at most {MOST} items, not {len(ids)}"
        raise InvalidInput(message, [FieldError("/ids", "not_allowed", message)])
    wrong = [at for at, each in enumerate(ids) if not is_id(each)]
    if wrong:
        message = "ids must hold ids of executions"
        raise InvalidInput(message, [FieldError(f"/ids/{at}", "not_allowed", message) for at in wrong[:_TOLD]])
