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

from jobworker.domain.schedules.schedule import MisfirePolicy, MissedOccurrencePolicy, OverlapPolicy


class OccurrenceOutcome(StrEnum):
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
class PausePeriod:
    """A span [since, until) of nominal times in which nothing fires; `until` None: it has no end yet."""

    since: dt.datetime
    until: dt.datetime | None
    reason: str

    def is_paused_at(self, nominal: dt.datetime) -> bool:
        """Whether an occurrence falls into it."""
        return self.since <= nominal and (self.until is None or nominal < self.until)


@dataclass(frozen=True, slots=True)
class UnfinishedRuns:
    """Executions of the schedule that have not ended: the oldest of them, None if there are none; whether one waits."""

    oldest_id: str | None = None
    has_waiting: bool = False


@dataclass(frozen=True, slots=True)
class EvaluationContext:
    """Everything that decides about occurrences besides their times.

    `closed` says why nothing of the job may run, `forbidden` why calendars forbid a moment (None: they do not);
    `runs` counts the executions so far.
    """

    now: dt.datetime
    misfire: MisfirePolicy = field(default_factory=MisfirePolicy)
    overlap: OverlapPolicy = OverlapPolicy.SKIP
    runs: int = 0
    max_runs: int | None = None
    pause: PausePeriod | None = None
    unavailable_reason: str | None = None
    find_forbidden_reason: Callable[[dt.datetime], str | None] = field(default=lambda _: None)
    unfinished: UnfinishedRuns = UnfinishedRuns()

    def is_late(self, nominal: dt.datetime) -> bool:
        """Whether it is noticed later than the grace allows."""
        return nominal < self.now - dt.timedelta(seconds=self.misfire.grace)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one occurrence.

    One that fires may have to wait for the executions before it (`waits`), and may have them cancelled (`cancels`).
    """

    nominal: dt.datetime
    outcome: OccurrenceOutcome
    reason: str | None = None
    waits: bool = False
    cancels: bool = False


def evaluate(
    due: Sequence[dt.datetime], context: EvaluationContext, later_due: Iterable[dt.datetime] = ()
) -> list[Decision]:
    """What becomes of these occurrences, ascending; `later_due` are those that are due as well and settled later.

    Everything after an occurrence that is `exhausted` is none any more, and gets no decision.
    """
    if not due:
        return []
    refused = {nominal: why for nominal in due if (why := _decide_refusal(nominal, context)) is not None}
    candidates = [nominal for nominal in due if nominal not in refused]
    late = _decide_late(candidates, context, later_due)
    return list(_decide_in_order(due, refused, late, context))


def _decide_refusal(nominal: dt.datetime, context: EvaluationContext) -> Decision | None:
    """Why an occurrence may not fire, whenever it is noticed."""
    # Calendars come first: what they forbid in a pause is not made up for when that ends, whatever they say by then.
    forbidden = context.find_forbidden_reason(nominal)
    if forbidden is not None:
        return Decision(nominal, OccurrenceOutcome.SKIPPED_CALENDAR, forbidden)
    pause = context.pause
    if pause is not None and pause.is_paused_at(nominal):
        return Decision(nominal, OccurrenceOutcome.SKIPPED_PAUSED, pause.reason)
    return (
        Decision(nominal, OccurrenceOutcome.SKIPPED_PAUSED, context.unavailable_reason)
        if context.unavailable_reason is not None
        else None
    )


def _decide_late(
    candidates: Sequence[dt.datetime], context: EvaluationContext, later_due: Iterable[dt.datetime]
) -> dict[dt.datetime, Decision]:
    """What the misfire policy says to those that are late."""
    late = [nominal for nominal in candidates if context.is_late(nominal)]
    if not late:
        return {}
    policy, ahead = context.misfire.policy, _filter_candidates(later_due, context)
    if policy is MissedOccurrencePolicy.SKIP:
        return {nominal: Decision(nominal, OccurrenceOutcome.MISSED, _describe_lateness(context)) for nominal in late}
    if policy is MissedOccurrencePolicy.FIRE_ONCE:
        timely = next((nominal for nominal in candidates if not context.is_late(nominal)), None)
        return _coalesce(late, timely or next(ahead, None), context)
    return _catch_up(late, ahead, context)


def _coalesce(
    late: Sequence[dt.datetime], later: dt.datetime | None, context: EvaluationContext
) -> dict[dt.datetime, Decision]:
    """One stands for all: one that is due later, if there is one, else the latest of them."""
    why = _describe_lateness(context)
    stands = later or late[-1]
    reason = f"{why}; the occurrence of {_format_moment(stands)} stands for it"
    decided = {nominal: Decision(nominal, OccurrenceOutcome.COALESCED, reason) for nominal in late if nominal != stands}
    if later is None:
        others = f", and stands for {len(late) - 1} before it" if len(late) > 1 else ""
        decided[stands] = Decision(stands, OccurrenceOutcome.FIRED, f"{why}{others}")
    else:
        told = f"stands for {len(late)} before it, which were noticed late"
        decided[stands] = Decision(stands, OccurrenceOutcome.FIRED, told)
    return decided


def _catch_up(
    late: Sequence[dt.datetime], ahead: Iterator[dt.datetime], context: EvaluationContext
) -> dict[dt.datetime, Decision]:
    """The latest fire, as many as the policy says, counting those that are settled later."""
    most, why = context.misfire.max_occurrences, _describe_lateness(context)
    # Ascending, so that after the first timely one nothing is late.
    coming = sum(1 for nominal in islice(ahead, most) if context.is_late(nominal))
    first = max(0, len(late) - max(0, most - coming))
    left_out = f"{why}; it is not among the latest {most}, which are made up for"
    decided = {nominal: Decision(nominal, OccurrenceOutcome.MISSED, left_out) for nominal in late[:first]}
    return decided | {
        nominal: Decision(nominal, OccurrenceOutcome.FIRED, f"{why}, and made up for") for nominal in late[first:]
    }


def _decide_in_order(
    due: Sequence[dt.datetime],
    refused: dict[dt.datetime, Decision],
    late: dict[dt.datetime, Decision],
    context: EvaluationContext,
) -> Iterator[Decision]:
    runs, line = context.runs, _OverlapState(context, _find_last_firing(due, refused, late))
    for nominal in due:
        if nominal in refused:
            yield refused[nominal]
            continue
        if context.max_runs is not None and runs >= context.max_runs:
            reason = f"it has run {runs} times; max_runs is {context.max_runs}"
            yield Decision(nominal, OccurrenceOutcome.EXHAUSTED, reason)
            return
        decision = late.get(nominal) or Decision(nominal, OccurrenceOutcome.FIRED)
        if decision.outcome is OccurrenceOutcome.FIRED:
            decision = line.apply(decision, nominal in late)
        runs += decision.outcome is OccurrenceOutcome.FIRED
        yield decision


def _find_last_firing(
    due: Sequence[dt.datetime], refused: Collection[dt.datetime], late: dict[dt.datetime, Decision]
) -> dt.datetime:
    fires = (
        nominal
        for nominal in reversed(due)
        if nominal not in refused and (nominal not in late or late[nominal].outcome is OccurrenceOutcome.FIRED)
    )
    return next(fires, due[-1])


class _OverlapState:
    """The executions of a schedule that have not ended, those included that are about to be made."""

    def __init__(self, context: EvaluationContext, last: dt.datetime) -> None:
        self._overlap = context.overlap
        self._catching_up = context.misfire.policy is MissedOccurrencePolicy.CATCH_UP
        self._last = last
        self._busy = f"execution {context.unfinished.oldest_id}" if context.unfinished.oldest_id else None
        self._waiting = context.unfinished.has_waiting

    def apply(self, decision: Decision, late: bool) -> Decision:
        """What the overlap policy makes of an occurrence that should fire."""
        overlap = self._overlap
        if late and self._catching_up and overlap is not OverlapPolicy.ALLOW:
            # Whoever wants each of them wants them one after the other, rather than the first alone.
            overlap = OverlapPolicy.QUEUE_ALL
        if overlap is OverlapPolicy.CANCEL_RUNNING and decision.nominal != self._last:
            taken = f"the occurrence of {_format_moment(self._last)} takes its place"
            return replace(decision, outcome=OccurrenceOutcome.SKIPPED_OVERLAP, reason=taken)
        if overlap is OverlapPolicy.ALLOW or self._busy is None:
            self._busy = self._busy or f"the execution of {_format_moment(decision.nominal)}"
            return decision
        if overlap is OverlapPolicy.SKIP or (overlap is OverlapPolicy.QUEUE_ONE and self._waiting):
            behind = ", and another one waits for that already" if overlap is OverlapPolicy.QUEUE_ONE else ""
            reason = f"{self._busy} had not ended{behind}"
            return replace(decision, outcome=OccurrenceOutcome.SKIPPED_OVERLAP, reason=reason)
        self._waiting = True
        return replace(decision, waits=True, cancels=overlap is OverlapPolicy.CANCEL_RUNNING)


def _filter_candidates(nominals: Iterable[dt.datetime], context: EvaluationContext) -> Iterator[dt.datetime]:
    return (nominal for nominal in nominals if _decide_refusal(nominal, context) is None)


def _describe_lateness(context: EvaluationContext) -> str:
    grace = context.misfire.grace
    return f"noticed at {_format_moment(context.now)}, later than the grace of {grace:g} s"


def _format_moment(moment: dt.datetime) -> str:
    return moment.isoformat(timespec="seconds")
