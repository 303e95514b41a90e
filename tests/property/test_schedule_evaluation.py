"""Evaluation of arbitrary due occurrences, also in parts: no occurrence is lost or evaluated twice."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from jobworker.domain.schedules.evaluation import (
    Decision,
    EvaluationContext,
    OccurrenceOutcome,
    PausePeriod,
    UnfinishedRuns,
    evaluate,
)
from jobworker.domain.schedules.schedule import MisfirePolicy, MissedOccurrencePolicy, OverlapPolicy

NOW = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)

#: Ages (s before now) of occurrences; ages up to 60 are within the grace.
_AGES = st.lists(st.integers(min_value=-5, max_value=200), unique=True, max_size=40)


def _get_moment(age: int) -> dt.datetime:
    return NOW - dt.timedelta(seconds=age)


@st.composite
def _situations(draw: st.DrawFn) -> EvaluationContext:
    since = draw(st.integers(min_value=0, max_value=250))
    until = draw(st.none() | st.integers(min_value=-5, max_value=since))
    forbidden = draw(st.integers(min_value=1, max_value=5))
    return EvaluationContext(
        now=NOW,
        misfire=MisfirePolicy(draw(st.sampled_from(MissedOccurrencePolicy)), 60.0, draw(st.integers(1, 12))),
        overlap=draw(st.sampled_from(OverlapPolicy)),
        runs=draw(st.integers(0, 5)),
        max_runs=draw(st.none() | st.integers(1, 30)),
        pause=draw(
            st.none()
            | st.just(PausePeriod(_get_moment(since), _get_moment(until) if until is not None else None, "paused"))
        ),
        unavailable_reason=draw(st.none() | st.none() | st.none() | st.just("disabled")),
        find_forbidden_reason=lambda moment: "closed" if forbidden > 1 and moment.second % forbidden == 0 else None,
        unfinished=draw(
            st.sampled_from([UnfinishedRuns(), UnfinishedRuns("x"), UnfinishedRuns("x", has_waiting=True)])
        ),
    )


def _list_due(ages: Sequence[int]) -> list[dt.datetime]:
    return sorted(_get_moment(age) for age in ages)


def _evaluate_in_parts(due: Sequence[dt.datetime], situation: EvaluationContext, size: int) -> list[Decision]:
    """Evaluate part by part as the relay does when many occurrences are due, counting the runs of earlier parts."""
    decided: list[Decision] = []
    for start in range(0, len(due), size):
        runs = situation.runs + sum(decision.outcome is OccurrenceOutcome.FIRED for decision in decided)
        part = evaluate(due[start : start + size], replace(situation, runs=runs), iter(due[start + size :]))
        decided += part
        if part and part[-1].outcome is OccurrenceOutcome.EXHAUSTED:
            break
    return decided


@given(_AGES, _situations())
def test_occurrences_have_one_outcome_in_order_with_reason(ages: list[int], situation: EvaluationContext) -> None:
    due = _list_due(ages)
    decided = evaluate(due, situation)
    exhausted = bool(decided) and decided[-1].outcome is OccurrenceOutcome.EXHAUSTED
    assert [decision.nominal for decision in decided] == due[: len(decided)]
    assert exhausted or len(decided) == len(due)
    assert [decision.outcome for decision in decided].count(OccurrenceOutcome.EXHAUSTED) == exhausted
    assert all(decision.reason for decision in decided if decision.outcome is not OccurrenceOutcome.FIRED)
    assert all(
        decision.outcome is OccurrenceOutcome.FIRED for decision in decided if decision.waits or decision.cancels
    )
    fired = sum(decision.outcome is OccurrenceOutcome.FIRED for decision in decided)
    assert situation.max_runs is None or fired <= max(0, situation.max_runs - situation.runs)


@given(_AGES, _situations())
def test_no_occurrence_fires_while_paused_or_forbidden(ages: list[int], situation: EvaluationContext) -> None:
    for decision in evaluate(_list_due(ages), situation):
        paused = situation.pause is not None and situation.pause.is_paused_at(decision.nominal)
        if situation.find_forbidden_reason(decision.nominal):
            assert decision.outcome is OccurrenceOutcome.SKIPPED_CALENDAR
        elif paused or situation.unavailable_reason:
            assert decision.outcome is OccurrenceOutcome.SKIPPED_PAUSED


@given(_AGES, _situations(), st.integers(1, 7))
def test_misfire_policies_hold_for_any_partition(ages: list[int], situation: EvaluationContext, size: int) -> None:
    situation = replace(situation, overlap=OverlapPolicy.ALLOW, max_runs=None)
    due = _list_due(ages)
    decided = _evaluate_in_parts(due, situation, size)
    assert [(decision.nominal, decision.outcome) for decision in decided] == [
        (decision.nominal, decision.outcome) for decision in evaluate(due, situation)
    ]
    candidates = [
        decision
        for decision in decided
        if decision.outcome not in (OccurrenceOutcome.SKIPPED_PAUSED, OccurrenceOutcome.SKIPPED_CALENDAR)
    ]
    late = [decision for decision in candidates if situation.is_late(decision.nominal)]
    fired = [decision for decision in late if decision.outcome is OccurrenceOutcome.FIRED]
    if situation.misfire.policy is MissedOccurrencePolicy.SKIP:
        assert not fired
    elif situation.misfire.policy is MissedOccurrencePolicy.CATCH_UP:
        assert fired == late[-situation.misfire.max_occurrences :]
    elif len(late) < len(candidates):
        assert not fired
    else:
        assert fired == late[-1:]
    assert all(decision.outcome is OccurrenceOutcome.FIRED for decision in candidates[len(late) :])


@given(_AGES, _situations())
def test_overlap_policies_hold_for_occurrences_evaluated_together(
    ages: list[int], situation: EvaluationContext
) -> None:
    fired = [
        decision for decision in evaluate(_list_due(ages), situation) if decision.outcome is OccurrenceOutcome.FIRED
    ]
    timely = [decision for decision in fired if not situation.is_late(decision.nominal)]
    catching_up = situation.misfire.policy is MissedOccurrencePolicy.CATCH_UP
    if situation.overlap is OverlapPolicy.ALLOW:
        assert not any(decision.waits for decision in fired)
    elif situation.overlap is OverlapPolicy.SKIP and not catching_up:
        assert len(fired) <= (situation.unfinished.oldest_id is None)
    elif situation.overlap is OverlapPolicy.QUEUE_ONE and not catching_up:
        assert sum(decision.waits for decision in fired) <= (not situation.unfinished.has_waiting)
    elif situation.overlap is OverlapPolicy.CANCEL_RUNNING:
        assert len(timely) <= 1
    # Without overlap only the first fired occurrence starts at once, and only if no earlier execution is unfinished.
    at_once = [decision for decision in fired if not decision.waits]
    assert situation.overlap is OverlapPolicy.ALLOW or len(at_once) <= (situation.unfinished.oldest_id is None)
