"""Settling schedules: every occurrence that is due gets its row in the ledger, and those that fire their execution.

Many schedules at once, in one transaction: what is looked up is looked up once, and what is written is written in bulk.
Who says that something is due, and how often, does not matter: everything since the last settlement is settled.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import sqlalchemy as sa

from jobworker.domain import settling
from jobworker.domain.errors import Conflict
from jobworker.domain.schedule import Overlap, Owner, State
from jobworker.domain.settling import Busy, Decision, Outcome, Situation
from jobworker.domain.timetable import next_after, occurrences
from jobworker.services import entering, occasions, plans, preparing
from jobworker.services.entering import Entered, Entry, Occasion
from jobworker.services.plans import Plan
from jobworker.services.preparing import Known
from jobworker.store import schedules
from jobworker.store import settling as settling_store
from jobworker.store.schedules import ScheduleRow
from jobworker.store.settling import Due, Settled

#: So many occurrences of one schedule are settled at a time; the others wait for the next turn.
_AT_ONCE = 1000

#: Before somebody changes a schedule so many such parts are settled and no more: others want to write, too.
_PARTS = 100

#: So far ahead (s) may be due what somebody says is due: the clocks of two hosts are never quite equal.
_AHEAD = dt.timedelta(seconds=60)

_TICK = dt.timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Fired:
    """How many executions were made, and which schedules have more that is due: id, up to when."""

    count: int = 0
    unfinished: Mapping[str, dt.datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Turn:
    """A schedule in this settlement: what is due of it, and the first nominal time after that."""

    row: Due
    compiled: Plan
    horizon: dt.datetime
    due_times: Sequence[dt.datetime]
    next_time: dt.datetime | None

    @property
    def has_more(self) -> bool:
        """Whether there is more that is due already."""
        return self.next_time is not None and self.next_time <= self.horizon

    def iterate_remaining(self) -> Iterator[dt.datetime]:
        """What is due and not settled in this turn."""
        if self.next_time is None or not self.has_more:
            return iter(())
        return chain([self.next_time], occurrences(self.compiled.timetable, self.next_time, self.horizon + _TICK))


def settle(connection: sa.Connection, due: Mapping[str, dt.datetime], now: dt.datetime) -> Fired:
    """Settle these schedules up to now, or a little later if somebody says that they are due then."""
    rows = settling_store.due(connection, sorted(due))
    found = plans.of(connection, rows)
    turns = []
    for row in rows:
        horizon = max(now, min(due[row.id], now + _AHEAD))
        turn = _turn(row, found[row.id], horizon) if row.id in found and row.next_at else None
        turns += [turn] if turn else []
    known = preparing.look_up(connection, {turn.row.job for turn in turns})
    entered = entering.enter(connection, [_occasion(connection, turn, known, now) for turn in turns], known, now)
    settling_store.advance(connection, map(_settled, turns, entered))
    more = {turn.row.id: turn.horizon for turn in turns if turn.has_more}
    for turn, done in zip(turns, entered, strict=True):
        if done.exhausted:
            more.pop(turn.row.id, None)
    return Fired(sum(len(done.prepared) for done in entered), more)


def settle_now(connection: sa.Connection, row: ScheduleRow, now: dt.datetime) -> ScheduleRow:
    """Settle everything of a schedule that is due by now, before it is changed; answers how it stands then.

    Raises `Conflict` if that is too much for one transaction.
    """
    more: Mapping[str, dt.datetime] = {row.id: now}
    for _ in range(_PARTS):
        more = settle(connection, more, now).unfinished
        if not more:
            settled = schedules.by_id(connection, row.id)
            assert settled is not None, "it is locked"
            return settled
    raise Conflict(
        f"more than {_PARTS * _AT_ONCE} occurrences of schedule {row.name} are due and not settled yet; "
        "the relay settles them step by step: try again later"
    )


def settle_own(connection: sa.Connection, job: str, now: dt.datetime) -> None:
    """Settle what is due of the schedule in a job's definition, before that is changed or removed."""
    row = schedules.named(connection, job)
    if row is not None and row.owner is Owner.JOB:
        settle_now(connection, row, now)


def fire(
    connection: sa.Connection, row: ScheduleRow, now: dt.datetime, actor: str, overlap: Overlap | None = None
) -> Decision:
    """One more occurrence, due now, because `actor` wants it: in a pause and on a holiday, too.

    `overlap` None: as the schedule says. Raises `Conflict` if it is retired or cannot be read, `JobDisabled`, and
    `JobRemoved`.
    """
    if row.state is State.RETIRED:
        message = f"schedule {row.name} is retired, code declares it no more: it cannot be fired; submit job {row.job}"
        raise Conflict(message)
    [due], plan = settling_store.due(connection, [row.id]), plans.of(connection, [row]).get(row.id)
    if plan is None:
        raise Conflict(f"schedule {row.name} cannot be read; change it first")
    known = preparing.look_up(connection, [row.job])
    occasions.refuse_closed(known, row.job, f"schedule {row.name} cannot be fired")
    situation = Situation(now, overlap=overlap or plan.schedule.overlap)
    return _besides(connection, due, plan, known, situation, f"fired by hand by {actor}").decision


def start(connection: sa.Connection, ids: Sequence[str], now: dt.datetime, reason: str) -> int:
    """One more occurrence, due now, of each of these schedules that says `run_at_start`; answers how many fired."""
    rows = settling_store.due(connection, sorted(ids))
    found = plans.of(connection, rows)
    known = preparing.look_up(connection, {row.job for row in rows})
    count = 0
    for row in rows:
        plan = found.get(row.id)
        if plan is not None and plan.schedule.run_at_start and _may_start(row, plan, now):
            situation = occasions.situation(row, plan, known, Busy(), now)
            count += _besides(connection, row, plan, known, situation, reason).prepared is not None
    return count


def enter_besides(
    connection: sa.Connection, occasion: Occasion, known: Known, now: dt.datetime, again: bool = False
) -> Entered:
    """Enter occurrences that are not the next ones of the rule; `again`: their rows are there already."""
    [entered] = entering.enter(connection, [occasion], known, now, again)
    row = occasion.row
    runs = row.runs + len(entered.prepared)
    state = _state(row, occasion.compiled, runs, row.next_at)
    settling_store.advance(connection, [Settled(row.id, row.settled_until, row.next_at, runs, state)])
    return entered


def _besides(connection: sa.Connection, row: Due, plan: Plan, known: Known, situation: Situation, reason: str) -> Entry:
    """One occurrence that is due at this moment."""
    line = entering.line(connection, row, situation.overlap)
    [decision] = settling.settle([situation.now], replace(situation, unfinished=line.unfinished_runs))
    if decision.outcome is Outcome.FIRED:
        decision = replace(decision, reason=reason)
    [entry] = enter_besides(connection, Occasion(row, plan, [decision], line), known, situation.now).occurrence_results
    return entry


def _turn(row: Due, plan: Plan, horizon: dt.datetime) -> _Turn | None:
    """What of a schedule is due by `horizon`."""
    try:
        if not in_force(row):
            return _Turn(row, plan, horizon, (), next_after(plan.timetable, horizon))
        due: list[dt.datetime] = []
        following = row.next_at
        if following is not None and following <= row.settled_until:  # What it really is has not been worked out.
            following = next_after(plan.timetable, row.settled_until)
        while following is not None and following <= horizon and len(due) < _AT_ONCE:
            due.append(following)
            following = next_after(plan.timetable, following)
    except plans.UNSETTLEABLE as error:
        plans.refused(row, error)
        return None
    return _Turn(row, plan, horizon, due, following)


def in_force(row: Due) -> bool:
    """Whether its occurrences count. Those of one that is not enabled are none: they leave no rows."""
    return row.enabled and row.state != State.RETIRED


def _may_start(row: Due, plan: Plan, now: dt.datetime) -> bool:
    """Whether the bounds of a schedule let it have an occurrence at this moment that its rule does not name."""
    if not in_force(row) or row.state == State.EXHAUSTED or not occasions.in_bounds(plan.timetable, now):
        return False
    # So far its initial delay goes. Settled before its time is, else, only what two clocks do not agree about.
    return not plan.schedule.initial_delay or now >= row.settled_until


def _occasion(connection: sa.Connection, turn: _Turn, known: Known, now: dt.datetime) -> Occasion:
    """What becomes of what is due."""
    row, plan = turn.row, turn.compiled
    if not turn.due_times:
        return Occasion(row, plan, [])
    line = entering.line(connection, row, plan.schedule.overlap)
    situation = occasions.situation(row, plan, known, line.unfinished_runs, now)
    return Occasion(row, plan, settling.settle(turn.due_times, situation, turn.iterate_remaining()), line)


def _settled(turn: _Turn, entered: Entered) -> Settled:
    """How far the schedule has come."""
    row = turn.row
    if not in_force(row):
        return Settled(row.id, turn.horizon, turn.next_time, row.runs, row.state)
    until = max(row.settled_until, turn.due_times[-1]) if turn.due_times else row.settled_until
    following = None if entered.exhausted else turn.next_time
    runs = row.runs + len(entered.prepared)
    return Settled(row.id, until, following, runs, _state(row, turn.compiled, runs, following))


def _state(row: Due, plan: Plan, runs: int, following: dt.datetime | None) -> str:
    """It is exhausted with its last run, be it that another occurrence is to come that says so in the ledger.

    What is retired stays so, whatever a backfill or the end of a pause adds to it.
    """
    if row.state == State.RETIRED:
        return row.state
    most = plan.schedule.max_runs
    over = following is None or (most is not None and runs >= most)
    return State.EXHAUSTED.value if over else row.state
