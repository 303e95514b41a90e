"""Evaluation of due occurrences: each rule by example."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest

from jobworker.domain.schedules.evaluation import (
    EvaluationContext,
    OccurrenceOutcome,
    PausePeriod,
    UnfinishedRuns,
    evaluate,
)
from jobworker.domain.schedules.schedule import MisfirePolicy, MissedOccurrencePolicy, OverlapPolicy

NOW = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)

RUNNING_EXECUTION = UnfinishedRuns("0199")
WAITING_EXECUTION = UnfinishedRuns("0199", has_waiting=True)


def list_minutes_ago(*minutes: int) -> list[dt.datetime]:
    """Return the nominal times that are these numbers of minutes before now."""
    return [NOW - dt.timedelta(minutes=age) for age in minutes]


def list_outcomes(due: Sequence[dt.datetime], further: Sequence[dt.datetime] = (), **situation: Any) -> list[str]:
    return [str(decision.outcome) for decision in evaluate(due, EvaluationContext(NOW, **situation), further)]


def make_pause(since: int, until: int | None = None, why: str = "paused") -> PausePeriod:
    return PausePeriod(list_minutes_ago(since)[0], list_minutes_ago(until)[0] if until is not None else None, why)


def make_misfire(policy: MissedOccurrencePolicy, max_runs: int = 100) -> dict[str, Any]:
    return {"misfire": MisfirePolicy(policy, 60.0, max_runs), "overlap": OverlapPolicy.ALLOW}


def test_no_due_occurrences_give_no_outcomes() -> None:
    assert evaluate([], EvaluationContext(NOW)) == []


def test_occurrence_within_grace_fires() -> None:
    [only] = evaluate(list_minutes_ago(1), EvaluationContext(NOW))
    assert (only.outcome, only.reason, only.waits, only.cancels) == ("fired", None, False, False)
    [future] = evaluate([NOW + dt.timedelta(seconds=2)], EvaluationContext(NOW))
    assert future.outcome == "fired"


def test_pause_skips_half_open_period_with_reason() -> None:
    stopped = make_pause(4, 2, why="paused by ann: stock-taking")
    decided = evaluate(
        list_minutes_ago(5, 4, 3, 2),
        EvaluationContext(NOW, pause=stopped, **make_misfire(MissedOccurrencePolicy.CATCH_UP)),
    )
    assert [decision.outcome for decision in decided] == ["fired", "skipped_paused", "skipped_paused", "fired"]
    assert decided[1].reason == "paused by ann: stock-taking"
    assert list_outcomes(list_minutes_ago(9, 1), pause=make_pause(5, why="")) == ["fired", "skipped_paused"]


def test_calendar_skip_outranks_pause_and_pause_outranks_disabled_job() -> None:
    stopped, forbidden = make_pause(4, 2, why="paused"), {list_minutes_ago(4)[0]: "closed"}.get
    decided = evaluate(
        list_minutes_ago(4, 3, 2),
        EvaluationContext(NOW, pause=stopped, unavailable_reason="job x is disabled", find_forbidden_reason=forbidden),
    )
    assert [(decision.outcome, decision.reason) for decision in decided] == [
        (OccurrenceOutcome.SKIPPED_CALENDAR, "closed"),
        (OccurrenceOutcome.SKIPPED_PAUSED, "paused"),
        (OccurrenceOutcome.SKIPPED_PAUSED, "job x is disabled"),
    ]


def test_calendar_skip_has_reason() -> None:
    [first, second] = list_minutes_ago(2, 1)
    forbidden = {first: "within calendar holidays: Labour Day"}.get
    decided = evaluate([first, second], EvaluationContext(NOW, find_forbidden_reason=forbidden))
    assert [decision.outcome for decision in decided] == ["skipped_calendar", "fired"]
    assert decided[0].reason == "within calendar holidays: Labour Day"


@pytest.mark.parametrize(
    ("policy", "due", "expected"),
    [
        (MissedOccurrencePolicy.SKIP, (9, 5, 1), ["missed", "missed", "fired"]),
        (MissedOccurrencePolicy.FIRE_ONCE, (9, 5, 1), ["coalesced", "coalesced", "fired"]),
        (MissedOccurrencePolicy.FIRE_ONCE, (9, 5), ["coalesced", "fired"]),
        (MissedOccurrencePolicy.FIRE_ONCE, (9,), ["fired"]),
        (MissedOccurrencePolicy.CATCH_UP, (9, 5, 1), ["fired", "fired", "fired"]),
    ],
)
def test_late_occurrences_follow_misfire_policy(
    policy: MissedOccurrencePolicy, due: Sequence[int], expected: Sequence[str]
) -> None:
    assert list_outcomes(list_minutes_ago(*due), **make_misfire(policy)) == expected


def test_catch_up_fires_latest_occurrences() -> None:
    assert list_outcomes(list_minutes_ago(9, 8, 7, 6), **make_misfire(MissedOccurrencePolicy.CATCH_UP, 2)) == [
        "missed",
        "missed",
        "fired",
        "fired",
    ]


def test_late_occurrences_have_reasons() -> None:
    first, second, third = evaluate(list_minutes_ago(9, 8, 1), EvaluationContext(NOW))[:3]
    assert first.reason == (
        "noticed at 2026-03-02T12:00:00+00:00, later than the grace of 60 s; "
        "replaced by the occurrence of 2026-03-02T11:59:00+00:00"
    )
    assert (second.outcome, third.reason) == ("coalesced", "replaces 2 before it, which were noticed late")
    [_, last] = evaluate(list_minutes_ago(9, 8), EvaluationContext(NOW))
    assert str(last.reason).endswith("later than the grace of 60 s, and replaces 1 before it")
    [_, missed, _] = evaluate(
        list_minutes_ago(9, 8, 7), EvaluationContext(NOW, **make_misfire(MissedOccurrencePolicy.CATCH_UP, 1))
    )
    assert str(missed.reason).endswith("; it is not among the latest 1, which are caught up")


def test_further_occurrences_count_for_misfire_policy() -> None:
    assert list_outcomes(
        list_minutes_ago(9, 8), list_minutes_ago(7), **make_misfire(MissedOccurrencePolicy.FIRE_ONCE)
    ) == ["coalesced", "coalesced"]
    assert list_outcomes(
        list_minutes_ago(9, 8), list_minutes_ago(1), **make_misfire(MissedOccurrencePolicy.FIRE_ONCE)
    ) == ["coalesced", "coalesced"]
    assert list_outcomes(
        list_minutes_ago(9, 8), list_minutes_ago(7, 6, 1), **make_misfire(MissedOccurrencePolicy.CATCH_UP, 3)
    ) == ["missed", "fired"]
    assert list_outcomes(
        list_minutes_ago(9, 8), list_minutes_ago(7, 6, 5, 4), **make_misfire(MissedOccurrencePolicy.CATCH_UP, 3)
    ) == ["missed", "missed"]
    stopped = make_pause(7, why="paused")
    assert list_outcomes(
        list_minutes_ago(9, 8), list_minutes_ago(7, 6), pause=stopped, **make_misfire(MissedOccurrencePolicy.FIRE_ONCE)
    ) == ["coalesced", "fired"]


@pytest.mark.parametrize(
    ("overlap", "busy", "expected"),
    [
        (OverlapPolicy.SKIP, UnfinishedRuns(), [("fired", False)]),
        (OverlapPolicy.SKIP, RUNNING_EXECUTION, [("skipped_overlap", False)]),
        (OverlapPolicy.QUEUE_ONE, RUNNING_EXECUTION, [("fired", True)]),
        (OverlapPolicy.QUEUE_ONE, WAITING_EXECUTION, [("skipped_overlap", False)]),
        (OverlapPolicy.QUEUE_ALL, WAITING_EXECUTION, [("fired", True)]),
        (OverlapPolicy.ALLOW, WAITING_EXECUTION, [("fired", False)]),
        (OverlapPolicy.CANCEL_RUNNING, RUNNING_EXECUTION, [("fired", True)]),
        (OverlapPolicy.CANCEL_RUNNING, UnfinishedRuns(), [("fired", False)]),
    ],
)
def test_overlapping_occurrence_follows_overlap_policy(
    overlap: OverlapPolicy, busy: UnfinishedRuns, expected: Sequence[tuple[str, bool]]
) -> None:
    decided = evaluate(list_minutes_ago(1), EvaluationContext(NOW, overlap=overlap, unfinished=busy))
    assert [(decision.outcome, decision.waits) for decision in decided] == expected
    assert [decision.cancels for decision in decided] == [
        overlap is OverlapPolicy.CANCEL_RUNNING and busy is RUNNING_EXECUTION
    ]


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        (OverlapPolicy.SKIP, ["fired", "skipped_overlap", "skipped_overlap"]),
        (OverlapPolicy.QUEUE_ONE, ["fired", "fired", "skipped_overlap"]),
        (OverlapPolicy.QUEUE_ALL, ["fired", "fired", "fired"]),
        (OverlapPolicy.ALLOW, ["fired", "fired", "fired"]),
        (OverlapPolicy.CANCEL_RUNNING, ["skipped_overlap", "skipped_overlap", "fired"]),
    ],
)
def test_occurrences_evaluated_together_overlap(overlap: OverlapPolicy, expected: Sequence[str]) -> None:
    due = [NOW - dt.timedelta(seconds=age) for age in (3, 2, 1)]
    assert list_outcomes(due, overlap=overlap) == expected


def test_overlap_outcomes_have_reasons() -> None:
    due = [NOW - dt.timedelta(seconds=age) for age in (2, 1)]
    skipped = evaluate(due, EvaluationContext(NOW))[1]
    assert skipped.reason == "the execution of 2026-03-02T11:59:58+00:00 had not ended"
    [behind] = evaluate(due[:1], EvaluationContext(NOW, overlap=OverlapPolicy.QUEUE_ONE, unfinished=WAITING_EXECUTION))
    assert behind.reason == "execution 0199 had not ended, and another one already waits for its end"
    [replaced, _] = evaluate(due, EvaluationContext(NOW, overlap=OverlapPolicy.CANCEL_RUNNING))
    assert replaced.reason == "the occurrence of 2026-03-02T11:59:59+00:00 takes its place"


def test_caught_up_occurrences_run_one_after_another() -> None:
    misfire = MisfirePolicy(MissedOccurrencePolicy.CATCH_UP)
    for overlap in (OverlapPolicy.SKIP, OverlapPolicy.QUEUE_ONE, OverlapPolicy.QUEUE_ALL, OverlapPolicy.CANCEL_RUNNING):
        decided = evaluate(list_minutes_ago(9, 8, 7), EvaluationContext(NOW, misfire=misfire, overlap=overlap))
        assert [(decision.outcome, decision.waits, decision.cancels) for decision in decided] == [
            ("fired", False, False), ("fired", True, False), ("fired", True, False),
        ]  # fmt: skip


def test_exhausted_after_max_runs() -> None:
    decided = evaluate(
        list_minutes_ago(4, 3, 2, 1),
        EvaluationContext(NOW, runs=3, max_runs=5, **make_misfire(MissedOccurrencePolicy.CATCH_UP)),
    )
    assert [decision.outcome for decision in decided] == ["fired", "fired", "exhausted"]
    assert decided[-1].reason == "it has run 5 times; max_runs is 5"


def test_skipped_occurrences_do_not_count_as_runs() -> None:
    stopped = make_pause(4, 2, why="paused")
    assert list_outcomes(
        list_minutes_ago(4, 3, 2, 1), runs=0, max_runs=1, pause=stopped, **make_misfire(MissedOccurrencePolicy.CATCH_UP)
    ) == [
        "skipped_paused",
        "skipped_paused",
        "fired",
        "exhausted",
    ]
