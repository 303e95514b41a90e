"""Convergence of the history: late, repeated or disordered events end in the same merged execution."""

import datetime as dt
from dataclasses import replace
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from jobworker.domain.executions.execution import (
    FINAL_STATES,
    ExecutionState,
    MergedExecution,
    StateTransition,
    merge_transition,
)

INITIAL_STANDING = MergedExecution(ExecutionState.QUEUED)
#: Reported states, and whether the attempt was cut short or never ran.
REPORTED_STATES = (
    *(
        (state, "")
        for state in (
            ExecutionState.RUNNING,
            ExecutionState.RETRYING,
            ExecutionState.SUCCEEDED,
            ExecutionState.FAILED,
            ExecutionState.TIMED_OUT,
        )
    ),
    (ExecutionState.CANCELLED, ""),
    *(
        (state, how)
        for state in (ExecutionState.RETRYING, ExecutionState.FAILED)
        for how in ("lost", "interrupted", "snoozed")
    ),
    *((state, "never ran") for state in (ExecutionState.SKIPPED, ExecutionState.FAILED)),
)
NOON = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)

#: Fields set by the event that decides the state.
OUTCOME_FIELDS = ("state", "attempt", "event_id", "reason", "finished_at", "result", "error")
#: Fields set by the event of the latest start.
START_FIELDS = ("started_attempt", "started_at", "worker", "token", "code_version")


@st.composite
def generated_move(draw: st.DrawFn, number: int) -> StateTransition:
    """Draw event number `number` of the stream; two fall into each millisecond. Every claim has a token of its own.

    An event that an attempt never ran is about the state after the previous attempt or after the submission.
    """
    state, how = draw(st.sampled_from(REPORTED_STATES))
    ran = how != "never ran"
    attempt = draw(st.integers(1, 3)) if ran else draw(st.integers(0, 2))
    milliseconds = number // 2
    at = NOON + dt.timedelta(milliseconds=milliseconds)
    return StateTransition(
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
        due_at=at + dt.timedelta(seconds=draw(st.integers(0, 60))) if state is ExecutionState.RETRYING else None,
        result=number if state is ExecutionState.SUCCEEDED else None,
        error={"message": str(number)}
        if state in (ExecutionState.FAILED, ExecutionState.TIMED_OUT, ExecutionState.RETRYING)
        else None,
        lost=how == "lost",
        interrupted=how == "interrupted",
        snoozed=how == "snoozed",
        ran=ran,
    )


@st.composite
def histories(draw: st.DrawFn, at_least: int = 1) -> list[StateTransition]:
    """Draw the events of one execution, in the order of the stream in Redis."""
    return [draw(generated_move(number)) for number in range(1, draw(st.integers(at_least, 8)) + 1)]


def merge_all(moves: list[StateTransition], start: MergedExecution = INITIAL_STANDING) -> MergedExecution:
    merged = start
    for move in moves:
        merged = merge_transition(merged, move)
    return merged


def get_fields(merged: MergedExecution, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(merged, name) for name in names}


@given(st.data(), histories())
def test_merge_independent_of_order_and_repetition(data: st.DataObject, moves: list[StateTransition]) -> None:
    repeated = data.draw(st.lists(st.sampled_from(moves), max_size=8))
    disordered = data.draw(st.permutations([*moves, *repeated]))
    assert merge_all(disordered) == merge_all(moves)


@given(histories())
def test_repeated_transition_returns_same_object(moves: list[StateTransition]) -> None:
    merged = merge_all(moves)
    for move in moves:
        assert merge_transition(merged, move) is merged


@given(histories(), generated_move(9), st.integers(1, 3))
def test_transition_of_older_attempt_changes_no_outcome_or_start(
    earlier: list[StateTransition], report: StateTransition, older_by: int
) -> None:
    before = merge_all(earlier)
    late = replace(report, attempt=before.attempt - older_by)
    after = merge_transition(before, late)
    assert get_fields(after, OUTCOME_FIELDS) == get_fields(before, OUTCOME_FIELDS)
    if late.attempt < before.started_attempt:
        assert get_fields(after, START_FIELDS) == get_fields(before, START_FIELDS)


@given(histories(), st.sampled_from(sorted(FINAL_STATES)), generated_move(9))
def test_final_state_absorbs_further_transitions_of_its_attempt(
    earlier: list[StateTransition], end: ExecutionState, report: StateTransition
) -> None:
    latest = max(move.attempt for move in earlier)
    before = merge_all([*earlier, replace(earlier[-1], state=end, attempt=latest)])
    assert before.is_final
    late = replace(report, attempt=latest)
    assert get_fields(merge_transition(before, late), OUTCOME_FIELDS) == get_fields(before, OUTCOME_FIELDS)


@given(histories(at_least=2))
def test_first_reported_final_state_stays(moves: list[StateTransition]) -> None:
    finals = [move for move in moves if move.state in FINAL_STATES]
    assume(finals)
    last = max(move.attempt for move in finals)
    first = next(move for move in finals if move.attempt == last)
    merged = merge_all(list(reversed(finals)))
    assert (merged.state, merged.attempt, merged.result) == (first.state, last, first.result)


@given(histories())
def test_late_start_sets_start_fields(moves: list[StateTransition]) -> None:
    starts = [move for move in moves if move.state is ExecutionState.RUNNING]
    assume(starts)
    others = [move for move in moves if move.state is not ExecutionState.RUNNING]
    merged = merge_all([*others, *starts])
    latest = min(starts, key=lambda move: (-move.attempt, move.at, _invert_token(move.token)))
    assert (merged.started_attempt, merged.worker, merged.started_at) == (
        latest.attempt,
        latest.worker,
        latest.at,
    )


def _invert_token(token: str | None) -> tuple[int, ...]:
    """Return a key that sorts tokens in reverse: of two starts in one millisecond the greater token stays."""
    return tuple(-ord(letter) for letter in token or "")


@given(histories())
def test_attempts_cut_short_counted_once_each(moves: list[StateTransition]) -> None:
    merged = merge_all([*moves, *moves])
    assert merged.lost_attempts == {move.attempt for move in moves if move.lost}
    assert merged.interrupted_attempts == {move.attempt for move in moves if move.interrupted}
    assert merged.snoozed_attempts == {move.attempt for move in moves if move.snoozed}


@given(histories())
def test_start_outweighs_never_ran_transition(moves: list[StateTransition]) -> None:
    assume(any(move.state is ExecutionState.RUNNING for move in moves))
    latest = max(move.attempt for move in moves if move.state is ExecutionState.RUNNING)
    assert merge_all(moves).attempt >= latest
