"""What becomes of the occurrences that are due: each rule by example."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest

from jobworker.domain.schedule import Misfire, Missed, Overlap
from jobworker.domain.settling import Busy, Outcome, Pause, Situation, settle

NOW = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)

RUNS = Busy("0199")
LINE = Busy("0199", has_waiting=True)


def ago(*minutes: int) -> list[dt.datetime]:
    """Nominal times so many minutes before now."""
    return [NOW - dt.timedelta(minutes=each) for each in minutes]


def outcomes(due: Sequence[dt.datetime], further: Sequence[dt.datetime] = (), **situation: Any) -> list[str]:
    return [str(each.outcome) for each in settle(due, Situation(NOW, **situation), further)]


def pause(since: int, until: int | None = None, why: str = "paused") -> Pause:
    return Pause(ago(since)[0], ago(until)[0] if until is not None else None, why)


def late(policy: Missed, most: int = 100) -> dict[str, Any]:
    return {"misfire": Misfire(policy, 60.0, most), "overlap": Overlap.ALLOW}


def test_nothing_is_due() -> None:
    assert settle([], Situation(NOW)) == []


def test_what_is_noticed_in_time_fires() -> None:
    [only] = settle(ago(1), Situation(NOW))
    assert (only.outcome, only.reason, only.waits, only.cancels) == ("fired", None, False, False)
    [future] = settle([NOW + dt.timedelta(seconds=2)], Situation(NOW))
    assert future.outcome == "fired"


def test_a_pause_is_half_open_and_says_who_and_why() -> None:
    stopped = pause(4, 2, why="paused by ann: stock-taking")
    decided = settle(ago(5, 4, 3, 2), Situation(NOW, pause=stopped, **late(Missed.CATCH_UP)))
    assert [each.outcome for each in decided] == ["fired", "skipped_paused", "skipped_paused", "fired"]
    assert decided[1].reason == "paused by ann: stock-taking"
    assert outcomes(ago(9, 1), pause=pause(5, why="")) == ["fired", "skipped_paused"]


def test_calendars_weigh_more_than_a_pause_and_that_more_than_a_disabled_job() -> None:
    stopped, forbidden = pause(4, 2, why="paused"), {ago(4)[0]: "closed"}.get
    decided = settle(ago(4, 3, 2), Situation(NOW, pause=stopped, unavailable_reason="job x is disabled", find_forbidden_reason=forbidden))
    assert [(each.outcome, each.reason) for each in decided] == [
        (Outcome.SKIPPED_CALENDAR, "closed"),
        (Outcome.SKIPPED_PAUSED, "paused"),
        (Outcome.SKIPPED_PAUSED, "job x is disabled"),
    ]


def test_calendars_say_why() -> None:
    [first, second] = ago(2, 1)
    forbidden = {first: "within calendar holidays: Labour Day"}.get
    decided = settle([first, second], Situation(NOW, find_forbidden_reason=forbidden))
    assert [each.outcome for each in decided] == ["skipped_calendar", "fired"]
    assert decided[0].reason == "within calendar holidays: Labour Day"


@pytest.mark.parametrize(
    ("policy", "due", "expected"),
    [
        (Missed.SKIP, (9, 5, 1), ["missed", "missed", "fired"]),
        (Missed.FIRE_ONCE, (9, 5, 1), ["coalesced", "coalesced", "fired"]),
        (Missed.FIRE_ONCE, (9, 5), ["coalesced", "fired"]),
        (Missed.FIRE_ONCE, (9,), ["fired"]),
        (Missed.CATCH_UP, (9, 5, 1), ["fired", "fired", "fired"]),
    ],
)
def test_what_is_noticed_late(policy: Missed, due: Sequence[int], expected: Sequence[str]) -> None:
    assert outcomes(ago(*due), **late(policy)) == expected


def test_catching_up_takes_the_latest() -> None:
    assert outcomes(ago(9, 8, 7, 6), **late(Missed.CATCH_UP, 2)) == ["missed", "missed", "fired", "fired"]


def test_what_is_late_is_told_in_words() -> None:
    first, second, third = settle(ago(9, 8, 1), Situation(NOW))[:3]
    assert first.reason == (
        "noticed at 2026-03-02T12:00:00+00:00, later than the grace of 60 s; "
        "the occurrence of 2026-03-02T11:59:00+00:00 stands for it"
    )
    assert (second.outcome, third.reason) == ("coalesced", "stands for 2 before it, which were noticed late")
    [_, last] = settle(ago(9, 8), Situation(NOW))
    assert str(last.reason).endswith("later than the grace of 60 s, and stands for 1 before it")
    [_, missed, _] = settle(ago(9, 8, 7), Situation(NOW, **late(Missed.CATCH_UP, 1)))
    assert str(missed.reason).endswith("; it is not among the latest 1, which are made up for")


def test_what_is_settled_later_counts_for_what_is_late() -> None:
    assert outcomes(ago(9, 8), ago(7), **late(Missed.FIRE_ONCE)) == ["coalesced", "coalesced"]
    assert outcomes(ago(9, 8), ago(1), **late(Missed.FIRE_ONCE)) == ["coalesced", "coalesced"]
    assert outcomes(ago(9, 8), ago(7, 6, 1), **late(Missed.CATCH_UP, 3)) == ["missed", "fired"]
    assert outcomes(ago(9, 8), ago(7, 6, 5, 4), **late(Missed.CATCH_UP, 3)) == ["missed", "missed"]
    stopped = pause(7, why="paused")
    assert outcomes(ago(9, 8), ago(7, 6), pause=stopped, **late(Missed.FIRE_ONCE)) == ["coalesced", "fired"]


@pytest.mark.parametrize(
    ("overlap", "busy", "expected"),
    [
        (Overlap.SKIP, Busy(), [("fired", False)]),
        (Overlap.SKIP, RUNS, [("skipped_overlap", False)]),
        (Overlap.QUEUE_ONE, RUNS, [("fired", True)]),
        (Overlap.QUEUE_ONE, LINE, [("skipped_overlap", False)]),
        (Overlap.QUEUE_ALL, LINE, [("fired", True)]),
        (Overlap.ALLOW, LINE, [("fired", False)]),
        (Overlap.CANCEL_RUNNING, RUNS, [("fired", True)]),
        (Overlap.CANCEL_RUNNING, Busy(), [("fired", False)]),
    ],
)
def test_what_overlaps(overlap: Overlap, busy: Busy, expected: Sequence[tuple[str, bool]]) -> None:
    decided = settle(ago(1), Situation(NOW, overlap=overlap, unfinished=busy))
    assert [(each.outcome, each.waits) for each in decided] == expected
    assert [each.cancels for each in decided] == [overlap is Overlap.CANCEL_RUNNING and busy is RUNS]


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        (Overlap.SKIP, ["fired", "skipped_overlap", "skipped_overlap"]),
        (Overlap.QUEUE_ONE, ["fired", "fired", "skipped_overlap"]),
        (Overlap.QUEUE_ALL, ["fired", "fired", "fired"]),
        (Overlap.ALLOW, ["fired", "fired", "fired"]),
        (Overlap.CANCEL_RUNNING, ["skipped_overlap", "skipped_overlap", "fired"]),
    ],
)
def test_occurrences_that_are_settled_together_overlap_as_well(overlap: Overlap, expected: Sequence[str]) -> None:
    due = [NOW - dt.timedelta(seconds=each) for each in (3, 2, 1)]
    assert outcomes(due, overlap=overlap) == expected


def test_why_it_overlaps() -> None:
    due = [NOW - dt.timedelta(seconds=each) for each in (2, 1)]
    skipped = settle(due, Situation(NOW))[1]
    assert skipped.reason == "the execution of 2026-03-02T11:59:58+00:00 had not ended"
    [behind] = settle(due[:1], Situation(NOW, overlap=Overlap.QUEUE_ONE, unfinished=LINE))
    assert behind.reason == "execution 0199 had not ended, and another one waits for that already"
    [replaced, _] = settle(due, Situation(NOW, overlap=Overlap.CANCEL_RUNNING))
    assert replaced.reason == "the occurrence of 2026-03-02T11:59:59+00:00 takes its place"


def test_what_is_made_up_for_runs_one_after_the_other() -> None:
    misfire = Misfire(Missed.CATCH_UP)
    for overlap in (Overlap.SKIP, Overlap.QUEUE_ONE, Overlap.QUEUE_ALL, Overlap.CANCEL_RUNNING):
        decided = settle(ago(9, 8, 7), Situation(NOW, misfire=misfire, overlap=overlap))
        assert [(each.outcome, each.waits, each.cancels) for each in decided] == [
            ("fired", False, False), ("fired", True, False), ("fired", True, False),
        ]  # fmt: skip


def test_after_the_last_run_nothing_is_due() -> None:
    decided = settle(ago(4, 3, 2, 1), Situation(NOW, runs=3, max_runs=5, **late(Missed.CATCH_UP)))
    assert [each.outcome for each in decided] == ["fired", "fired", "exhausted"]
    assert decided[-1].reason == "it has run 5 times; max_runs is 5"


def test_what_does_not_fire_does_not_count_as_a_run() -> None:
    stopped = pause(4, 2, why="paused")
    assert outcomes(ago(4, 3, 2, 1), runs=0, max_runs=1, pause=stopped, **late(Missed.CATCH_UP)) == [
        "skipped_paused",
        "skipped_paused",
        "fired",
        "exhausted",
    ]
