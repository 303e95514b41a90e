"""Evaluation of due occurrences: each gets exactly one outcome, and a reason in words.

Occurrences are evaluated in the order of their nominal times. First those that may not fire are refused: calendars
forbid them, the schedule is paused, or its job is disabled. The others are *candidates*. Candidates that are noticed
later than the grace are *late*, and the misfire policy selects which of them fire. The overlap policy applies to firing
occurrences while executions of the schedule are unfinished.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice

from jobworker.domain.schedules.schedule import MisfirePolicy, MissedOccurrencePolicy, OverlapPolicy


class OccurrenceOutcome(StrEnum):
    """Outcome of an occurrence."""

    #: The occurrence has its own execution.
    FIRED = "fired"
    #: Another execution of the schedule had not ended.
    SKIPPED_OVERLAP = "skipped_overlap"
    #: The schedule was paused, or its job disabled.
    SKIPPED_PAUSED = "skipped_paused"
    #: A calendar forbade the occurrence.
    SKIPPED_CALENDAR = "skipped_calendar"
    #: Another execution holds the unique key of the occurrence's execution.
    SKIPPED_DUPLICATE = "skipped_duplicate"
    #: The occurrence was noticed late, and another occurrence fires in its place.
    COALESCED = "coalesced"
    #: The occurrence was noticed late, and no execution replaces it.
    MISSED = "missed"
    #: The schedule has had its maximum number of runs; no occurrence follows.
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True)
class PausePeriod:
    """A span [since, until) of nominal times in which no occurrence fires; `until` None: the pause has no end yet."""

    since: dt.datetime
    until: dt.datetime | None
    reason: str

    def is_paused_at(self, nominal: dt.datetime) -> bool:
        """Return whether a nominal time is within the pause."""
        return self.since <= nominal and (self.until is None or nominal < self.until)


@dataclass(frozen=True, slots=True)
class UnfinishedRuns:
    """Unfinished executions of the schedule: the id of the oldest, None without any; and whether one of them waits."""

    oldest_id: str | None = None
    has_waiting: bool = False


@dataclass(frozen=True, slots=True)
class EvaluationContext:
    """The conditions, besides their times, that decide about occurrences.

    `unavailable_reason` states why the job may not run; `find_forbidden_reason` returns why calendars forbid a time
    (None: they allow it); `runs` counts the executions so far.
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
        """Return whether an occurrence is noticed later than the grace allows."""
        return nominal < self.now - dt.timedelta(seconds=self.misfire.grace)


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of one occurrence.

    An occurrence that fires may wait for the executions before it (`waits`), and may cancel them (`cancels`).
    """

    nominal: dt.datetime
    outcome: OccurrenceOutcome
    reason: str | None = None
    waits: bool = False
    cancels: bool = False


def evaluate(
    due: Sequence[dt.datetime], context: EvaluationContext, later_due: Iterable[dt.datetime] = ()
) -> list[Decision]:
    """Return the decisions for these occurrences, ascending; `later_due` are due occurrences that are evaluated later.

    Occurrences after an `exhausted` one are discarded and get no decision.
    """
    if not due:
        return []
    refused = {nominal: why for nominal in due if (why := _decide_refusal(nominal, context)) is not None}
    candidates = [nominal for nominal in due if nominal not in refused]
    late = _decide_late(candidates, context, later_due)
    return list(_decide_in_order(due, refused, late, context))


def _decide_refusal(nominal: dt.datetime, context: EvaluationContext) -> Decision | None:
    """Return the decision for an occurrence that may not fire, late or not; None if it may fire."""
    # Calendars come first: an occurrence that they forbid during a pause must not be caught up after the pause, even if
    # they are changed by then.
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
    """Return the decisions of the misfire policy for late occurrences."""
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
    """Fire one occurrence in place of all late ones: a later due one if there is one, else the latest of them."""
    why = _describe_lateness(context)
    stands = later or late[-1]
    reason = f"{why}; replaced by the occurrence of {_format_moment(stands)}"
    decided = {nominal: Decision(nominal, OccurrenceOutcome.COALESCED, reason) for nominal in late if nominal != stands}
    if later is None:
        others = f", and replaces {len(late) - 1} before it" if len(late) > 1 else ""
        decided[stands] = Decision(stands, OccurrenceOutcome.FIRED, f"{why}{others}")
    else:
        fired_reason = f"replaces {len(late)} before it, which were noticed late"
        decided[stands] = Decision(stands, OccurrenceOutcome.FIRED, fired_reason)
    return decided


def _catch_up(
    late: Sequence[dt.datetime], ahead: Iterator[dt.datetime], context: EvaluationContext
) -> dict[dt.datetime, Decision]:
    """Fire the latest occurrences, up to the maximum of the policy, which includes those that are evaluated later."""
    most, why = context.misfire.max_occurrences, _describe_lateness(context)
    # Ascending, so that no occurrence after the first timely one is late.
    late_ahead = sum(1 for nominal in islice(ahead, most) if context.is_late(nominal))
    first = max(0, len(late) - max(0, most - late_ahead))
    left_out = f"{why}; it is not among the latest {most}, which are caught up"
    decided = {nominal: Decision(nominal, OccurrenceOutcome.MISSED, left_out) for nominal in late[:first]}
    return decided | {
        nominal: Decision(nominal, OccurrenceOutcome.FIRED, f"{why}, and caught up") for nominal in late[first:]
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
    """Unfinished executions of a schedule, including those of occurrences that are about to fire."""

    def __init__(self, context: EvaluationContext, last: dt.datetime) -> None:
        self._overlap = context.overlap
        self._catching_up = context.misfire.policy is MissedOccurrencePolicy.CATCH_UP
        self._last = last
        self._busy = f"execution {context.unfinished.oldest_id}" if context.unfinished.oldest_id else None
        self._waiting = context.unfinished.has_waiting

    def apply(self, decision: Decision, late: bool) -> Decision:
        """Apply the overlap policy to an occurrence that would fire."""
        overlap = self._overlap
        if late and self._catching_up and overlap is not OverlapPolicy.ALLOW:
            # The policy catch_up runs each occurrence one after the other, so it must not skip those after the first.
            overlap = OverlapPolicy.QUEUE_ALL
        if overlap is OverlapPolicy.CANCEL_RUNNING and decision.nominal != self._last:
            taken = f"the occurrence of {_format_moment(self._last)} takes its place"
            return replace(decision, outcome=OccurrenceOutcome.SKIPPED_OVERLAP, reason=taken)
        if overlap is OverlapPolicy.ALLOW or self._busy is None:
            self._busy = self._busy or f"the execution of {_format_moment(decision.nominal)}"
            return decision
        if overlap is OverlapPolicy.SKIP or (overlap is OverlapPolicy.QUEUE_ONE and self._waiting):
            behind = ", and another one already waits for its end" if overlap is OverlapPolicy.QUEUE_ONE else ""
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
