"""Entering what was decided: rows of the ledger, executions, what these wait for, and whom they take the place of."""

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from jobworker.domain.dependencies import Dependency, On
from jobworker.domain.errors import NotUnique
from jobworker.domain.execution import State
from jobworker.domain.schedule import Overlap
from jobworker.domain.settling import Busy, Decision, Outcome
from jobworker.services import dependencies, failures, occasions, preparing, release, unique
from jobworker.services.plans import Plan
from jobworker.services.preparing import Known, Prepared
from jobworker.store import cancelling, executions, occurrences, settling
from jobworker.store import dependencies as store_dependencies
from jobworker.store.dependencies import Changed
from jobworker.store.executions import NewExecution
from jobworker.store.occurrences import Occurrence
from jobworker.store.settling import Due

#: An execution waits for so many of the oldest that are unfinished, which run, and of the latest, which wait as well:
#: whoever waits for the latest waits for all of them, unless somebody cancels these.
_OLDEST = _LATEST = 10


@dataclass(frozen=True, slots=True)
class Line:
    """Executions of a schedule that have not ended, the oldest first; whether any of them waits for the others."""

    ids: Sequence[str] = ()
    has_waiting: bool = False

    @property
    def unfinished_runs(self) -> Busy:
        """What the overlap policy asks about."""
        return Busy(self.ids[0] if self.ids else None, self.has_waiting)


@dataclass(frozen=True, slots=True)
class Occasion:
    """A schedule, and what was decided about occurrences of it."""

    row: Due
    compiled: Plan
    decisions: Sequence[Decision]
    unfinished: Line = Line()


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of an occurrence, and its execution."""

    decision: Decision
    prepared: Prepared | None = None
    #: Why it cannot run.
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Entered:
    """What was entered for one schedule."""

    occurrence_results: Sequence[Entry]

    @property
    def prepared(self) -> Sequence[Prepared]:
        """The executions."""
        return [each.prepared for each in self.occurrence_results if each.prepared is not None]

    @property
    def exhausted(self) -> bool:
        """Whether nothing is due any more."""
        return bool(self.occurrence_results) and self.occurrence_results[-1].decision.outcome is Outcome.EXHAUSTED


def line(connection: sa.Connection, row: Due, overlap: Overlap) -> Line:
    """The executions that a new one may have to wait for."""
    if row.oldest is None or overlap in (Overlap.ALLOW, Overlap.SKIP):
        return Line([row.oldest] if row.oldest else [])
    found = settling.unfinished(connection, row.id)
    return Line([each for each, _ in found], any(state is State.WAITING for _, state in found))


def enter(
    connection: sa.Connection, asked: Sequence[Occasion], known: Known, now: dt.datetime, again: bool = False
) -> list[Entered]:
    """Write down what was decided, in bulk; answers what was entered for each. `again`: over what is in the ledger."""
    keys: dict[str, str] = {}
    entered = [Entered(_make(connection, occasion, known, keys, now)) for occasion in asked]
    rows = [row for one, done in zip(asked, entered, strict=True) for row in _rows(one.row.id, done, now)]
    if again:
        occurrences.change(connection, rows)
    elif refused := occurrences.enter(connection, rows):
        entered = [Entered([_without(each, refused) for each in done.occurrence_results]) for done in entered]
    _insert(connection, asked, entered, now)
    _fail(connection, entered, now)
    _cancel(connection, asked, now)
    return entered


def _make(
    connection: sa.Connection, occasion: Occasion, known: Known, keys: dict[str, str], now: dt.datetime
) -> list[Entry]:
    """The executions of those that fire, each after those before it; `keys` are the unique ones taken by now."""
    entries: list[Entry] = []
    ids = list(occasion.unfinished.ids)
    for decision in occasion.decisions:
        if decision.outcome is not Outcome.FIRED:
            entries.append(Entry(decision))
            continue
        like = occasions.pattern(occasion.compiled, known, now)
        made = occasions.execution(occasion.row, occasion.compiled, like, decision.nominal, now)
        taken = _taken(connection, made, known, keys, now) if made.unique_key else None
        if taken is not None:
            entries.append(Entry(replace(decision, outcome=Outcome.SKIPPED_DUPLICATE, reason=taken)))
            continue
        waits = decision.waits and like.problem is None
        before = [Dependency(each, On.ANY) for each in _some(ids)] if waits else []
        entries.append(Entry(decision, preparing.waiting(Prepared(made), before), like.problem))
        ids.append(made.id)
    return entries


def _some(ids: Sequence[str]) -> Sequence[str]:
    return ids if len(ids) <= _OLDEST + _LATEST else [*ids[:_OLDEST], *ids[-_LATEST:]]


def _taken(
    connection: sa.Connection, execution: NewExecution, known: Known, keys: dict[str, str], now: dt.datetime
) -> str | None:
    """Why another execution stands for this occurrence. Those that are about to be made are in no table yet."""
    first = keys.setdefault(execution.unique_key or "", execution.id)
    if first != execution.id:
        return f"execution {first} stands for it"
    try:
        decided = unique.decide(connection, [execution], known.get_unique_policies(), now)
    except NotUnique as error:
        return error.detail
    release.release(connection, store_dependencies.ended(connection, decided.cancelled), now)
    [answer] = decided.ids
    return f"execution {answer} stands for it" if answer != execution.id else None


def _rows(schedule_id: str, entered: Entered, now: dt.datetime) -> Iterator[Occurrence]:
    for entry in entered.occurrence_results:
        decision = entry.decision
        made = entry.prepared.row.id if entry.prepared else None
        yield Occurrence(schedule_id, decision.nominal, decision.outcome.value, decision.reason, made, now)


def _without(entry: Entry, refused: Collection[str]) -> Entry:
    """The entry without executions that must not be: the ledger has another one for their occurrence."""
    if entry.prepared is None or entry.prepared.row.id in refused:
        return replace(entry, prepared=None)
    depends_on = [each for each in entry.prepared.depends_on if each.parent not in refused]
    if len(depends_on) == len(entry.prepared.depends_on):
        return entry
    left = {"waiting_for": len(depends_on)} if depends_on else {"waiting_for": None, "state": State.QUEUED}
    row = replace(entry.prepared.row, **left)
    return replace(entry, prepared=replace(entry.prepared, row=row, depends_on=depends_on))


def _insert(connection: sa.Connection, asked: Sequence[Occasion], entered: Sequence[Entered], now: dt.datetime) -> None:
    """The executions, and what they wait for."""
    made = [each for done in entered for each in done.prepared]
    waiting = [each for each in made if each.depends_on]
    ended = dependencies.check(connection, made) if waiting else {}
    actors = [f"schedule:{one.row.name}" for one, done in zip(asked, entered, strict=True) for _ in done.prepared]
    executions.insert_of(connection, [each.row for each in made], actors, now)
    dependencies.insert(connection, waiting)
    if ended:
        release.of_dependents(connection, [each.row.id for each in waiting], ended, now)


def _fail(connection: sa.Connection, entered: Sequence[Entered], now: dt.datetime) -> None:
    """What its task does not accept fails at once, where everybody looks for failures."""
    refused = [(entry.prepared.row, entry.problem) for done in entered for entry in done.occurrence_results if entry.prepared]
    failed = [_failed(row, problem) for row, problem in refused if problem is not None]
    if not failed:
        return
    store_dependencies.save(connection, failed, now)
    release.release(connection, store_dependencies.ended(connection, [each.id for each in failed]), now)
    ended = [failures.End(row.schedule_id or "", row.id, State.FAILED) for row, problem in refused if problem]
    failures.count(connection, ended, now)


def _failed(row: NewExecution, problem: str) -> Changed:
    error = {"type": "InvalidParameters", "message": problem, "traceback": None}
    return Changed(row.id, State.FAILED, problem, row.due_at, row.parameters, row.expires_at, error)


def _cancel(connection: sa.Connection, asked: Sequence[Occasion], now: dt.datetime) -> None:
    """Cancel what has to make room for an occurrence."""
    for occasion in asked:
        taking = next((each for each in occasion.decisions if each.cancels), None)
        if taking is None:
            continue
        actor = f"schedule:{occasion.row.name}"
        reason = f"the occurrence of {taking.nominal.isoformat(timespec='seconds')} takes its place"
        ended = cancelling.cancel_waiting(connection, occasion.unfinished.ids, actor, reason, now)
        cancelling.ask(connection, occasion.unfinished.ids, actor, now)
        release.release(connection, store_dependencies.ended(connection, ended), now)
