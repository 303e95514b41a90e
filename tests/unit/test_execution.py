"""The transition table of executions, and single merges of transitions."""

import datetime as dt

import pytest

from jobworker.domain.executions import execution
from jobworker.domain.executions.execution import (
    ALLOWED_TRANSITIONS,
    FINAL_STATES,
    ExecutionState,
    MergedExecution,
    StateTransition,
    count_used_retries,
    merge_transition,
)

NOON = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)


def make_move(state: ExecutionState, attempt: int = 1, number: int = 1, **more: object) -> StateTransition:
    at = NOON + dt.timedelta(seconds=number)
    fields = {"execution": "0199", "event_id": (number, 0), "at": at, "actor": "worker:w", **more}
    return StateTransition(attempt=attempt, state=state, **fields)  # type: ignore[arg-type]


def test_every_state_in_transition_table() -> None:
    assert set(ALLOWED_TRANSITIONS) == set(ExecutionState)


def test_final_states_have_no_transitions() -> None:
    assert {state for state, after in ALLOWED_TRANSITIONS.items() if not after} == FINAL_STATES


def test_every_state_reachable_and_leads_to_final_state() -> None:
    reached, frontier = set[ExecutionState](), {ExecutionState.WAITING}
    while frontier:
        reached |= frontier
        frontier = {after for state in frontier for after in ALLOWED_TRANSITIONS[state]} - reached
    assert reached == set(ExecutionState)
    for state in set(ExecutionState) - FINAL_STATES:
        assert _can_reach_final(state), state


def _can_reach_final(start: ExecutionState) -> bool:
    seen, frontier = set[ExecutionState](), {start}
    while frontier:
        seen |= frontier
        frontier = {after for state in frontier for after in ALLOWED_TRANSITIONS[state]} - seen
    return bool(seen & FINAL_STATES)


@pytest.mark.parametrize("state", ExecutionState)
def test_module_docstring_describes_each_state(state: ExecutionState) -> None:
    assert f"\n{state.value} " in (execution.__doc__ or "")


def test_attempt_merged_from_start_to_success() -> None:
    running = merge_transition(
        MergedExecution(ExecutionState.QUEUED),
        make_move(ExecutionState.RUNNING, worker="w1", token="t1", code_version="v1"),
    )
    assert (running.state, running.attempt, running.started_at) == (
        ExecutionState.RUNNING,
        1,
        NOON + dt.timedelta(seconds=1),
    )
    assert (running.worker, running.token, running.code_version) == ("w1", "t1", "v1")

    done = merge_transition(running, make_move(ExecutionState.SUCCEEDED, number=2, token="t1", result={"rows": 3}))
    assert (done.state, done.result, done.finished_at) == (
        ExecutionState.SUCCEEDED,
        {"rows": 3},
        NOON + dt.timedelta(seconds=2),
    )
    assert (done.worker, done.is_final) == ("w1", True)


def test_retry_clears_finish_time_and_keeps_error() -> None:
    later = NOON + dt.timedelta(minutes=5)
    failure = {"type": "ValueError", "message": "no", "traceback": None}
    waiting = merge_transition(
        MergedExecution(ExecutionState.RUNNING, attempt=1),
        make_move(ExecutionState.RETRYING, due_at=later, error=failure),
    )
    assert (waiting.state, waiting.due_at, waiting.error, waiting.finished_at) == (
        ExecutionState.RETRYING,
        later,
        failure,
        None,
    )
    again = merge_transition(waiting, make_move(ExecutionState.RUNNING, attempt=2, number=2))
    assert (again.state, again.attempt, again.error) == (ExecutionState.RUNNING, 2, None)


def test_late_start_does_not_reopen_released_attempt() -> None:
    # Queued after attempt 1: the relay has released the retry already.
    queued = MergedExecution(ExecutionState.QUEUED, attempt=1)
    assert merge_transition(queued, make_move(ExecutionState.RUNNING, worker="w1")).state is ExecutionState.QUEUED
    assert merge_transition(queued, make_move(ExecutionState.RETRYING, number=2)).state is ExecutionState.QUEUED
    assert (
        merge_transition(queued, make_move(ExecutionState.RUNNING, attempt=2, number=3)).state is ExecutionState.RUNNING
    )


def test_transition_of_older_attempt_ignored() -> None:
    second = MergedExecution(ExecutionState.RUNNING, attempt=2, started_attempt=2, worker="w2", token="t2")
    assert merge_transition(second, make_move(ExecutionState.SUCCEEDED, attempt=1, number=9, result="stale")) == second


def test_lost_attempt_counted_once() -> None:
    lost = make_move(ExecutionState.RETRYING, due_at=NOON, lost=True)
    once = merge_transition(MergedExecution(ExecutionState.RUNNING, attempt=1), lost)
    assert once.lost_attempts == {1}
    assert merge_transition(once, lost) is once


def test_interrupted_attempt_not_counted_as_lost() -> None:
    interrupted = make_move(ExecutionState.RETRYING, due_at=NOON, interrupted=True)
    once = merge_transition(MergedExecution(ExecutionState.RUNNING, attempt=1), interrupted)
    assert once.interrupted_attempts == {1}
    assert once.lost_attempts == set()
    assert merge_transition(once, interrupted) is once


def test_snoozed_attempt_not_counted_as_lost() -> None:
    snoozed = make_move(ExecutionState.RETRYING, due_at=NOON, snoozed=True)
    once = merge_transition(MergedExecution(ExecutionState.RUNNING, attempt=1), snoozed)
    assert once.snoozed_attempts == {1}
    assert once.lost_attempts == once.interrupted_attempts == frozenset()
    assert merge_transition(once, snoozed) is once


def test_never_ran_transition_ends_queued_execution() -> None:
    queued = MergedExecution(ExecutionState.QUEUED, attempt=1, started_attempt=1, worker="w1")
    ended = merge_transition(queued, make_move(ExecutionState.SKIPPED, attempt=1, reason="too late", ran=False))
    assert (ended.state, ended.attempt, ended.reason, ended.is_final) == (ExecutionState.SKIPPED, 1, "too late", True)
    assert (ended.started_attempt, ended.worker) == (1, "w1")


def test_started_attempt_outweighs_never_ran_transition() -> None:
    never = make_move(ExecutionState.FAILED, attempt=0, ran=False)
    started = make_move(ExecutionState.RUNNING, attempt=1, number=2)
    assert (
        merge_transition(merge_transition(MergedExecution(ExecutionState.QUEUED), never), started).state
        is ExecutionState.RUNNING
    )
    assert (
        merge_transition(merge_transition(MergedExecution(ExecutionState.QUEUED), started), never).state
        is ExecutionState.RUNNING
    )


@pytest.mark.parametrize(
    ("attempt", "free", "used"),
    [(0, 0, 0), (1, 0, 0), (2, 0, 1), (2, 1, 0), (4, 2, 1), (1, 1, 0)],
)
def test_lost_and_snoozed_attempts_use_no_retry(attempt: int, free: int, used: int) -> None:
    assert count_used_retries(attempt, free) == used
