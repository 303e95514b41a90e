"""What becomes of the occurrences of a schedule that are due: each gets exactly one outcome, and a reason in words.

In the order of their nominal times. First it is asked whether an occurrence may fire at all: not when calendars
forbid it, not in a pause, not while its job is disabled. What is left are *candidates*. Those that are noticed later
than the grace are *late*, and the misfire policy says which of them fire. What fires meets the unfinished executions of
the schedule, and the overlap policy says what that means.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice

from jobworker.domain.schedule import Misfire, Missed, Overlap


class Outcome(StrEnum):
    """What became of an occurrence."""

    #: It has its own execution.
    FIRED = "fired"
    #: Another execution of the schedule had not ended.
    SKIPPED_OVERLAP = "skipped_overlap"
    #: The schedule was paused, or its job disabled.
    SKIPPED_PAUSED = "skipped_paused"
    #: A calendar forbade it.
    SKIPPED_CALENDAR = "skipped_calendar"
    #: Another execution has its unique key.
    SKIPPED_DUPLICATE = "skipped_duplicate"
    #: It was noticed late, and another occurrence stands for it.
    COALESCED = "coalesced"
    #: It was noticed late, and nothing makes up for it.
    MISSED = "missed"
    #: The schedule has run as often as it may; nothing is due after this.
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True)
class Pause:
    """A span [since, until) of nominal times in which nothing fires; `until` None: it has no end yet."""

    since: dt.datetime
    until: dt.datetime | None
    reason: str

    def is_paused_at(self, nominal: dt.datetime) -> bool:
        """Whether an occurrence falls into it."""
        return self.since <= nominal and (self.until is None or nominal < self.until)


@dataclass(frozen=True, slots=True)
class Busy:
    """Executions of the schedule that have not ended: the oldest of them, None if there are none; whether one waits."""

    oldest_id: str | None = None
    has_waiting: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that decides about occurrences besides their times.

    `closed` says why nothing of the job may run, `forbidden` why calendars forbid a moment (None: they do not);
    `runs` counts the executions so far.
    """

    now: dt.datetime
    misfire: Misfire = field(default_factory=Misfire)
    overlap: Overlap = Overlap.SKIP
    runs: int = 0
    max_runs: int | None = None
    pause: Pause | None = None
    unavailable_reason: str | None = None
    find_forbidden_reason: Callable[[dt.datetime], str | None] = field(default=lambda _: None)
    unfinished: Busy = Busy()

    def is_late(self, nominal: dt.datetime) -> bool:
        """Whether it is noticed later than the grace allows."""
        return nominal < self.now - dt.timedelta(seconds=self.misfire.grace)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one occurrence.

    One that fires may have to wait for the executions before it (`waits`), and may have them cancelled (`cancels`).
    """

    nominal: dt.datetime
    outcome: Outcome
    reason: str | None = None
    waits: bool = False
    cancels: bool = False


def settle(due: Sequence[dt.datetime], situation: Situation, further: Iterable[dt.datetime] = ()) -> list[Decision]:
    """What becomes of these occurrences, ascending; `further` are those that are due as well and settled later.

    Everything after an occurrence that is `exhausted` is none any more, and gets no decision.
    """
    if not due:
        return []
    refused = {nominal: why for nominal in due if (why := _refused(nominal, situation)) is not None}
    candidates = [nominal for nominal in due if nominal not in refused]
    late = _late(candidates, situation, further)
    return list(_in_order(due, refused, late, situation))


def _refused(nominal: dt.datetime, situation: Situation) -> Decision | None:
    """Why an occurrence may not fire, whenever it is noticed."""
    # Calendars come first: what they forbid in a pause is not made up for when that ends, whatever they say by then.
    forbidden = situation.find_forbidden_reason(nominal)
    if forbidden is not None:
        return Decision(nominal, Outcome.SKIPPED_CALENDAR, forbidden)
    pause = situation.pause
    if pause is not None and pause.is_paused_at(nominal):
        return Decision(nominal, Outcome.SKIPPED_PAUSED, pause.reason)
    return Decision(nominal, Outcome.SKIPPED_PAUSED, situation.unavailable_reason) if situation.unavailable_reason is not None else None


def _late(
    candidates: Sequence[dt.datetime], situation: Situation, further: Iterable[dt.datetime]
) -> dict[dt.datetime, Decision]:
    """What the misfire policy says to those that are late."""
    late = [nominal for nominal in candidates if situation.is_late(nominal)]
    if not late:
        return {}
    policy, ahead = situation.misfire.policy, _candidates(further, situation)
    if policy is Missed.SKIP:
        return {nominal: Decision(nominal, Outcome.MISSED, _noticed(situation)) for nominal in late}
    if policy is Missed.FIRE_ONCE:
        timely = next((nominal for nominal in candidates if not situation.is_late(nominal)), None)
        return _once(late, timely or next(ahead, None), situation)
    return _caught_up(late, ahead, situation)


def _once(late: Sequence[dt.datetime], later: dt.datetime | None, situation: Situation) -> dict[dt.datetime, Decision]:
    """One stands for all: one that is due later, if there is one, else the latest of them."""
    why = _noticed(situation)
    stands = later or late[-1]
    reason = f"{why}; the occurrence of {_shown(stands)} stands for it"
    decided = {nominal: Decision(nominal, Outcome.COALESCED, reason) for nominal in late if nominal != stands}
    if later is None:
        others = f", and stands for {len(late) - 1} before it" if len(late) > 1 else ""
        decided[stands] = Decision(stands, Outcome.FIRED, f"{why}{others}")
    else:
        told = f"stands for {len(late)} before it, which were noticed late"
        decided[stands] = Decision(stands, Outcome.FIRED, told)
    return decided


def _caught_up(
    late: Sequence[dt.datetime], ahead: Iterator[dt.datetime], situation: Situation
) -> dict[dt.datetime, Decision]:
    """The latest fire, as many as the policy says, counting those that are settled later."""
    most, why = situation.misfire.max_occurrences, _noticed(situation)
    # Ascending, so that after the first timely one nothing is late.
    coming = sum(1 for nominal in islice(ahead, most) if situation.is_late(nominal))
    first = max(0, len(late) - max(0, most - coming))
    left_out = f"{why}; it is not among the latest {most}, which are made up for"
    decided = {nominal: Decision(nominal, Outcome.MISSED, left_out) for nominal in late[:first]}
    return decided | {nominal: Decision(nominal, Outcome.FIRED, f"{why}, and made up for") for nominal in late[first:]}


def _in_order(
    due: Sequence[dt.datetime],
    refused: dict[dt.datetime, Decision],
    late: dict[dt.datetime, Decision],
    situation: Situation,
) -> Iterator[Decision]:
    runs, line = situation.runs, _Line(situation, _last_that_fires(due, refused, late))
    for nominal in due:
        if nominal in refused:
            yield refused[nominal]
            continue
        if situation.max_runs is not None and runs >= situation.max_runs:
            reason = f"it has run {runs} times; max_runs is {situation.max_runs}"
            yield Decision(nominal, Outcome.EXHAUSTED, reason)
            return
        decision = late.get(nominal) or Decision(nominal, Outcome.FIRED)
        if decision.outcome is Outcome.FIRED:
            decision = line.apply(decision, nominal in late)
        runs += decision.outcome is Outcome.FIRED
        yield decision


def _last_that_fires(
    due: Sequence[dt.datetime], refused: Collection[dt.datetime], late: dict[dt.datetime, Decision]
) -> dt.datetime:
    fires = (
        nominal
        for nominal in reversed(due)
        if nominal not in refused and (nominal not in late or late[nominal].outcome is Outcome.FIRED)
    )
    return next(fires, due[-1])


class _Line:
    """The executions of a schedule that have not ended, those included that are about to be made."""

    def __init__(self, situation: Situation, last: dt.datetime) -> None:
        self._overlap = situation.overlap
        self._catching_up = situation.misfire.policy is Missed.CATCH_UP
        self._last = last
        self._busy = f"execution {situation.unfinished.oldest_id}" if situation.unfinished.oldest_id else None
        self._waiting = situation.unfinished.has_waiting

    def apply(self, decision: Decision, late: bool) -> Decision:
        """What the overlap policy makes of an occurrence that should fire."""
        overlap = self._overlap
        if late and self._catching_up and overlap is not Overlap.ALLOW:
            # Whoever wants each of them wants them one after the other, rather than the first alone.
            overlap = Overlap.QUEUE_ALL
        if overlap is Overlap.CANCEL_RUNNING and decision.nominal != self._last:
            taken = f"the occurrence of {_shown(self._last)} takes its place"
            return replace(decision, outcome=Outcome.SKIPPED_OVERLAP, reason=taken)
        if overlap is Overlap.ALLOW or self._busy is None:
            self._busy = self._busy or f"the execution of {_shown(decision.nominal)}"
            return decision
        if overlap is Overlap.SKIP or (overlap is Overlap.QUEUE_ONE and self._waiting):
            behind = ", and another one waits for that already" if overlap is Overlap.QUEUE_ONE else ""
            reason = f"{self._busy} had not ended{behind}"
            return replace(decision, outcome=Outcome.SKIPPED_OVERLAP, reason=reason)
        self._waiting = True
        return replace(decision, waits=True, cancels=overlap is Overlap.CANCEL_RUNNING)


def _candidates(nominals: Iterable[dt.datetime], situation: Situation) -> Iterator[dt.datetime]:
    return (nominal for nominal in nominals if _refused(nominal, situation) is None)


def _noticed(situation: Situation) -> str:
    grace = situation.misfire.grace
    return f"noticed at {_shown(situation.now)}, later than the grace of {grace:g} s"


def _shown(moment: dt.datetime) -> str:
    return moment.isoformat(timespec="seconds")
