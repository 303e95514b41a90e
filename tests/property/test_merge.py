"""History converges: however late, doubled or disordered the reports come, the standing ends the same."""

import datetime as dt
from dataclasses import replace
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from jobworker.domain.execution import FINAL, Move, Standing, State, merge

FRESH = Standing(State.QUEUED)
#: What may be reported: a state, and whether the attempt was cut short, or never ran.
REPORTED = (
    *((state, "") for state in (State.RUNNING, State.RETRYING, State.SUCCEEDED, State.FAILED, State.TIMED_OUT)),
    (State.CANCELLED, ""),
    *((state, how) for state in (State.RETRYING, State.FAILED) for how in ("lost", "interrupted", "snoozed")),
    *((state, "never ran") for state in (State.SKIPPED, State.FAILED)),
)
NOON = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)

#: What the report that decides about the state brings with it.
OUTCOME = ("state", "attempt", "event_id", "reason", "finished_at", "result", "error")
#: What the report of the latest start brings with it.
START = ("started_attempt", "started_at", "worker", "token", "code_version")


@st.composite
def a_move(draw: st.DrawFn, number: int) -> Move:
    """Report number `number` of the stream; two fall into each millisecond. Every claim has a token of its own.

    One that an attempt never ran is about what the attempt before it left behind, be it the submission.
    """
    state, how = draw(st.sampled_from(REPORTED))
    ran = how != "never ran"
    attempt = draw(st.integers(1, 3)) if ran else draw(st.integers(0, 2))
    milliseconds = number // 2
    at = NOON + dt.timedelta(milliseconds=milliseconds)
    return Move(
        execution="0199",
        attempt=attempt,
        state=state,
        event_id=(milliseconds, number),
        at=at,
        actor="worker:w",
        reason=draw(st.none() | st.just(f"because {number}")),
        worker=f"worker-{number}",
        token=f"token-{number}",
        code_version=f"version-{number}",
        due_at=at + dt.timedelta(seconds=draw(st.integers(0, 60))) if state is State.RETRYING else None,
        result=number if state is State.SUCCEEDED else None,
        error={"message": str(number)} if state in (State.FAILED, State.TIMED_OUT, State.RETRYING) else None,
        lost=how == "lost",
        interrupted=how == "interrupted",
        snoozed=how == "snoozed",
        ran=ran,
    )


@st.composite
def histories(draw: st.DrawFn, at_least: int = 1) -> list[Move]:
    """Reports about one execution, in the order in which Redis took them."""
    return [draw(a_move(number)) for number in range(1, draw(st.integers(at_least, 8)) + 1)]


def merged(moves: list[Move], start: Standing = FRESH) -> Standing:
    standing = start
    for move in moves:
        standing = merge(standing, move)
    return standing


def part(standing: Standing, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(standing, name) for name in names}


@given(st.data(), histories())
def test_any_order_and_any_repetition_end_the_same(data: st.DataObject, moves: list[Move]) -> None:
    repeated = data.draw(st.lists(st.sampled_from(moves), max_size=8))
    disordered = data.draw(st.permutations([*moves, *repeated]))
    assert merged(disordered) == merged(moves)


@given(histories())
def test_the_same_report_again_changes_nothing_at_all(moves: list[Move]) -> None:
    standing = merged(moves)
    for move in moves:
        assert merge(standing, move) is standing


@given(histories(), a_move(9), st.integers(1, 3))
def test_a_report_about_an_older_attempt_changes_neither_outcome_nor_start(
    earlier: list[Move], report: Move, older_by: int
) -> None:
    before = merged(earlier)
    late = replace(report, attempt=before.attempt - older_by)
    after = merge(before, late)
    assert part(after, OUTCOME) == part(before, OUTCOME)
    if late.attempt < before.started_attempt:
        assert part(after, START) == part(before, START)


@given(histories(), st.sampled_from(sorted(FINAL)), a_move(9))
def test_a_final_state_absorbs_what_else_is_said_of_its_attempt(earlier: list[Move], end: State, report: Move) -> None:
    latest = max(move.attempt for move in earlier)
    before = merged([*earlier, replace(earlier[-1], state=end, attempt=latest)])
    assert before.is_final
    late = replace(report, attempt=latest)
    assert part(merge(before, late), OUTCOME) == part(before, OUTCOME)


@given(histories(at_least=2))
def test_of_two_final_states_the_one_reported_first_stays(moves: list[Move]) -> None:
    finals = [move for move in moves if move.state in FINAL]
    assume(finals)
    last = max(move.attempt for move in finals)
    first = next(move for move in finals if move.attempt == last)
    standing = merged(list(reversed(finals)))
    assert (standing.state, standing.attempt, standing.result) == (first.state, last, first.result)


@given(histories())
def test_a_start_that_arrives_after_the_end_completes_the_picture(moves: list[Move]) -> None:
    starts = [move for move in moves if move.state is State.RUNNING]
    assume(starts)
    others = [move for move in moves if move.state is not State.RUNNING]
    standing = merged([*others, *starts])
    latest = min(starts, key=lambda move: (-move.attempt, move.at, _inverse(move.token)))
    assert (standing.started_attempt, standing.worker, standing.started_at) == (
        latest.attempt,
        latest.worker,
        latest.at,
    )


def _inverse(token: str | None) -> tuple[int, ...]:
    """Sorts tokens the other way round: of two starts in one millisecond the greater token stays."""
    return tuple(-ord(letter) for letter in token or "")


@given(histories())
def test_attempts_that_were_cut_short_are_counted_once_each(moves: list[Move]) -> None:
    standing = merged([*moves, *moves])
    assert standing.lost_attempts == {move.attempt for move in moves if move.lost}
    assert standing.interrupted_attempts == {move.attempt for move in moves if move.interrupted}
    assert standing.snoozed_attempts == {move.attempt for move in moves if move.snoozed}


@given(histories())
def test_a_start_outweighs_the_report_that_its_attempt_never_ran(moves: list[Move]) -> None:
    assume(any(move.state is State.RUNNING for move in moves))
    latest = max(move.attempt for move in moves if move.state is State.RUNNING)
    assert merged(moves).attempt >= latest
