"""What schedules would do, on virtual time: the code that settles them, on a database of its own.

A turn is what the relay does when something is due: it takes note of what has ended, settles what is due, and starts
what may start. Executions start at once, as if there were workers for all of them, and take as long as they are assumed
to. While there is an outage nobody takes a turn; what runs goes on.
"""

import contextlib
import datetime as dt
import heapq
import itertools
import math
import re
import tempfile
import zoneinfo
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import sqlalchemy as sa

from jobworker.declare.schedules import Declarations
from jobworker.domain.errors import InvalidInput, ScheduleNotFound
from jobworker.domain.execution import Move, State, merge
from jobworker.domain.job import Definition
from jobworker.domain.job import Owner as JobOwner
from jobworker.domain.outages import Outage
from jobworker.domain.parameters import VARIADIC
from jobworker.domain.schedule import Owner
from jobworker.domain.settling import Outcome
from jobworker.services import firing, naming, pausing, release, schedule_sync
from jobworker.services import schedules as editing
from jobworker.services.schedule_sync import Step
from jobworker.store import dependencies, dispatch, history, jobs, schedules, settling, simulated, stopping, tasks
from jobworker.store.database import Database
from jobworker.store.simulated import LedgerRow
from jobworker.store.tasks import TaskRow

#: Most of anything that one turn looks at.
_AT_ONCE = 10_000

_TICK = dt.timedelta(microseconds=1)

#: Later than everything.
_NEVER = dt.datetime.max.replace(tzinfo=dt.UTC)

_ACTOR = "simulation"

_EXECUTION = re.compile(r"\bexecution ([0-9a-f-]{36})\b")


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody wants to know: [begin, end), and how long (s) executions take, those of some schedules otherwise.

    Nothing is settled, and nothing starts, in an outage. It ends after `limit` occurrences. Raises `InvalidInput` for
    a span that ends before it begins, and for what is no duration.
    """

    begin: dt.datetime
    end: dt.datetime
    outages: Sequence[Outage] = ()
    duration: float = 0.0
    durations: Mapping[str, float] = field(default_factory=dict)
    limit: int = 1000

    def __post_init__(self) -> None:
        if self.end <= self.begin:
            raise InvalidInput(
                f"the end, {self.end.isoformat()}, must be later than the beginning, {self.begin.isoformat()}"
            )
        for name, seconds in [("", self.duration), *self.durations.items()]:
            if not (math.isfinite(seconds) and seconds >= 0):
                whose = f" of schedule {name}" if name else ""
                raise InvalidInput(f"the duration{whose} is {seconds:g}; it must be a number of seconds, 0 or more")


@dataclass(frozen=True, slots=True)
class Simulated:
    """What would become of an occurrence. All times are on the clock of the schedule's zone.

    `settled_at` is when somebody would look at it. Its execution has a state (None: there is none), and, if it gets so
    far, a beginning and an end.
    """

    schedule: str
    scheduled_for: dt.datetime
    outcome: Outcome
    reason: str | None
    settled_at: dt.datetime
    state: State | None
    started_at: dt.datetime | None
    ended_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that would happen, by nominal time.

    `unsettled`: schedules with something due that nobody looks at before the end, and since when it is due;
    `stopped_at`: when there were too many occurrences to go on; `assumed`: jobs that are nowhere known.
    """

    occurrences: Sequence[Simulated]
    unevaluated: Mapping[str, dt.datetime]
    stopped_at: dt.datetime | None
    assumed_jobs: Sequence[str] = ()


def of_database(database: Database, question: Question, names: Collection[str] | None = None) -> Story:
    """What the schedules of a database would do; `names` chooses some. Raises `ScheduleNotFound`."""
    with _world() as connection:
        with database.read() as source:
            simulated.copy(source, connection)
        for name in [*(names or ()), *question.durations]:
            editing.find(connection, name)
        simulated.keep(connection, names, None)
        return _Simulation(connection, question).run()


def of_code(
    code: Declarations, question: Question, names: Collection[str] | None = None, database: Database | None = None
) -> Story:
    """What declared schedules would do beside the jobs and calendars of a database; `names` chooses some.

    A job that is not there (without a database: each) is taken as one that takes every parameter. Raises
    `InvalidInput` with what cannot be of those schedules, and `ScheduleNotFound`.
    """
    for name in [*(names or ()), *question.durations]:
        if name not in code.schedules:
            raise ScheduleNotFound(naming.undeclared("schedule", name, sorted(code.schedules)))
    chosen = _chosen(code, code.schedules if names is None else names)
    with _world() as connection:
        if database is not None:
            with database.read() as source:
                simulated.copy(source, connection)
        simulated.keep(connection, chosen.schedules, None)
        assumed = _assume(connection, {each.value.job for each in chosen.schedules.values()}, question.begin)
        _apply(connection, chosen, question.begin)
        simulated.keep(connection, None, Owner.CODE)
        return replace(_Simulation(connection, question).run(), assumed_jobs=assumed)


def _chosen(code: Declarations, names: Collection[str]) -> Declarations:
    """These schedules, and the calendars that they name."""
    found = {name: each for name, each in code.schedules.items() if name in names}
    needed = {name for each in found.values() for name in each.value.calendar_names}
    return Declarations(found, {name: each for name, each in code.calendars.items() if name in needed})


def _assume(connection: sa.Connection, needed: Collection[str], now: dt.datetime) -> list[str]:
    """Let there be these jobs; answers those that were not there."""
    missing = sorted(set(needed) - jobs.some(connection, sorted(needed)).keys())
    for name in missing:
        tasks.put(connection, TaskRow(name, "", (VARIADIC,), {}, _ACTOR, now))
        jobs.put(connection, Definition(name, name), JobOwner.API, _ACTOR, now)
    return missing


@contextlib.contextmanager
def _world() -> Iterator[sa.Connection]:
    """An empty database with the tables, in one transaction that nobody ever reads."""
    with tempfile.TemporaryDirectory(prefix="jobworker-simulation-") as folder:
        database = Database(f"sqlite:///{Path(folder) / 'simulated.db'}")
        try:
            with database.write() as connection:
                simulated.create(connection)
                yield connection
        finally:
            database.dispose()


def _apply(connection: sa.Connection, code: Declarations, now: dt.datetime) -> None:
    # When a schedule is created, and when somebody starts, is not what is asked.
    begun = {
        name: replace(each, value=replace(each.value, run_at_start=False)) for name, each in code.schedules.items()
    }
    changes = schedule_sync.carry_out(connection, replace(code, schedules=begun), _ACTOR, now)
    refused = [change for change in changes if change.step is Step.REFUSED]
    if refused:
        told = (f"{each.kind} {each.name} ({each.place}): {each.reason}" for each in refused)
        raise InvalidInput("; ".join(told))


class _Simulation:
    """One run through virtual time."""

    def __init__(self, connection: sa.Connection, question: Question) -> None:
        self._connection = connection
        self._question = question
        self._now = question.begin
        #: Executions that run: (end, id).
        self._running: list[tuple[dt.datetime, str]] = []
        self._numbers = itertools.count(1)
        simulated.begin(connection, question.begin - _TICK)
        self._schedules = {row.id: row for row in schedules.all(connection)}

    def run(self) -> Story:
        """Go through the time; answers what happened."""
        stopped_at = self._run_turns()
        unsettled = {} if stopped_at else self._find_unevaluated()
        self._finish_running()
        zones = {row.name: zoneinfo.ZoneInfo(row.schedule.zone) for row in self._schedules.values()}
        rows = list(simulated.ledger(self._connection))
        called = {row.execution: f"the execution of {row.scheduled_for:%Y-%m-%dT%H:%M:%SZ}" for row in rows}
        story = [_shown(row, zones[row.schedule], called) for row in rows]
        return Story(story[: self._question.limit], unsettled, stopped_at)

    def _run_turns(self) -> dt.datetime | None:
        """Take turns until the time is over; answers when it was stopped before."""
        while (moment := self._compute_next_turn()) < self._question.end:
            self._now = moment
            if not self._run_turn() and self._compute_next_turn() == self._now:
                simulated.leave_out(self._connection, self._now)
            if simulated.count(self._connection) > self._question.limit:
                return self._now
        return None

    def _find_unevaluated(self) -> dict[str, dt.datetime]:
        """What was due, and nobody looked at it."""
        rows = schedules.all(self._connection)
        return {row.name: row.next_at for row in rows if row.next_at is not None and row.next_at < self._question.end}

    def _finish_running(self) -> None:
        """Let what was begun come to its end; nothing more falls due."""
        while self._running:
            self._now = self._skip_outages(max(self._now, self._running[0][0]))
            self._end_and_start()

    def _compute_next_turn(self) -> dt.datetime:
        """When the next turn is taken."""
        due = settling.due_by(self._connection, _NEVER, 1)
        moments = [at for _, at in due] + [at for at, _ in self._running[:1]]
        others = dispatch.next_due(self._connection), simulated.next_end_of_a_pause(self._connection)
        found = min([*moments, *(each for each in others if each is not None)], default=_NEVER)
        return self._skip_outages(max(self._now, found))

    def _skip_outages(self, moment: dt.datetime) -> dt.datetime:
        """The first moment from this one on at which somebody takes a turn."""
        for outage in sorted(self._question.outages, key=lambda each: each.begin):
            if outage.begin <= moment < outage.end:
                moment = outage.end
        return moment

    def _run_turn(self) -> bool:
        """What the relay does now; whether anything came of it."""
        ended = self._record_ended()
        due = dict(settling.due_by(self._connection, self._now, _AT_ONCE))
        if due:
            firing.settle(self._connection, due, self._now)
        resumed = settling.pauses_over(self._connection, self._now, _AT_ONCE)
        for each in resumed:
            pausing.end(self._connection, each, self._now)
        advanced = bool(due) and due != dict(settling.due_by(self._connection, self._now, _AT_ONCE))
        return self._release_and_start() or ended or advanced or bool(resumed)

    def _end_and_start(self) -> None:
        self._record_ended()
        self._release_and_start()

    def _record_ended(self) -> bool:
        """Take note of executions that have ended."""
        ended: list[Move] = []
        while self._running and self._running[0][0] <= self._now:
            at, execution = heapq.heappop(self._running)
            ended.append(self._build_move(execution, State.SUCCEEDED, at))
        self._record_moves(ended)
        return bool(ended)

    def _release_and_start(self) -> bool:
        """Stop what somebody wants stopped, and start everything that may."""
        asked = stopping.asked(self._connection, _AT_ONCE)
        gone = {each.id for each in asked}
        self._running = [each for each in self._running if each[1] not in gone]
        heapq.heapify(self._running)
        self._record_moves([self._build_move(execution, State.CANCELLED, self._now) for execution in gone])
        released = self._release_due()
        started = simulated.waiting_for_a_worker(self._connection)
        self._record_moves([self._build_move(execution, State.RUNNING, self._now) for execution, _ in started])
        for execution, schedule in started:
            name = self._schedules[schedule].name if schedule in self._schedules else ""
            takes = self._question.durations.get(name, self._question.duration)
            heapq.heappush(self._running, (self._now + dt.timedelta(seconds=takes), execution))
        return bool(gone or released or started)

    def _release_due(self) -> bool:
        """What has waited for its time goes on, or is too late."""
        moment = dispatch.next_due(self._connection)
        if moment is None or moment > self._now:
            return False
        expired = dispatch.expire(self._connection, self._now, _AT_ONCE)
        release.release(self._connection, dependencies.ended(self._connection, expired), self._now)
        dispatch.release_due(self._connection, self._now, _AT_ONCE)
        return True

    def _build_move(self, execution: str, state: State, at: dt.datetime) -> Move:
        return Move(execution, 1, state, (next(self._numbers), 0), at, _ACTOR, worker=_ACTOR)

    def _record_moves(self, moves: Sequence[Move]) -> None:
        """Record what a worker would report, and let go on what waited for it."""
        if not moves:
            return
        known = history.known(self._connection, [move.execution for move in moves])
        history.save(self._connection, {each.execution: merge(known[each.execution].standing, each) for each in moves})
        ended = [move.execution for move in moves if move.state is not State.RUNNING]
        if ended:
            release.release(self._connection, dependencies.ended(self._connection, ended), self._now)


def _shown(row: LedgerRow, zone: zoneinfo.ZoneInfo, called: Mapping[str | None, str]) -> Simulated:
    def local(moment: dt.datetime | None) -> dt.datetime | None:
        return moment.astimezone(zone) if moment else None

    # Ids of executions that are nowhere else tell nobody anything.
    named = _EXECUTION.sub(lambda found: called.get(found[1], found[0]), row.reason) if row.reason else None
    return Simulated(
        schedule=row.schedule,
        scheduled_for=row.scheduled_for.astimezone(zone),
        outcome=Outcome(row.outcome),
        reason=named,
        settled_at=row.recorded_at.astimezone(zone),
        state=row.state,
        started_at=local(row.started_at),
        ended_at=local(row.finished_at),
    )
