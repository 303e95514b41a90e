"""The table of moves, and single merges that a reader can follow."""

import datetime as dt

import pytest

from jobworker.domain import execution
from jobworker.domain.execution import FINAL, MOVES, Move, Standing, State, merge, retries_used

NOON = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)


def move(state: State, attempt: int = 1, number: int = 1, **more: object) -> Move:
    at = NOON + dt.timedelta(seconds=number)
    fields = {"execution": "0199", "event_id": (number, 0), "at": at, "actor": "worker:w", **more}
    return Move(attempt=attempt, state=state, **fields)  # type: ignore[arg-type]


def test_every_state_has_its_line_in_the_table() -> None:
    assert set(MOVES) == set(State)


def test_final_states_are_those_that_nothing_leaves() -> None:
    assert {state for state, after in MOVES.items() if not after} == FINAL


def test_every_state_can_be_reached_and_reaches_an_end() -> None:
    reached, frontier = set[State](), {State.WAITING}
    while frontier:
        reached |= frontier
        frontier = {after for state in frontier for after in MOVES[state]} - reached
    assert reached == set(State)
    for state in set(State) - FINAL:
        assert _can_end(state), state


def _can_end(start: State) -> bool:
    seen, frontier = set[State](), {start}
    while frontier:
        seen |= frontier
        frontier = {after for state in frontier for after in MOVES[state]} - seen
    return bool(seen & FINAL)


@pytest.mark.parametrize("state", State)
def test_the_module_says_of_each_state_who_moves_it(state: State) -> None:
    assert f"\n{state.value} " in (execution.__doc__ or "")


def test_an_attempt_from_start_to_end() -> None:
    running = merge(Standing(State.QUEUED), move(State.RUNNING, worker="w1", token="t1", code_version="v1"))
    assert (running.state, running.attempt, running.started_at) == (State.RUNNING, 1, NOON + dt.timedelta(seconds=1))
    assert (running.worker, running.token, running.code_version) == ("w1", "t1", "v1")

    done = merge(running, move(State.SUCCEEDED, number=2, token="t1", result={"rows": 3}))
    assert (done.state, done.result, done.finished_at) == (State.SUCCEEDED, {"rows": 3}, NOON + dt.timedelta(seconds=2))
    assert (done.worker, done.is_final) == ("w1", True)


def test_a_retry_forgets_the_end_but_keeps_the_error() -> None:
    later = NOON + dt.timedelta(minutes=5)
    failure = {"type": "ValueError", "message": "no", "traceback": None}
    waiting = merge(Standing(State.RUNNING, attempt=1), move(State.RETRYING, due_at=later, error=failure))
    assert (waiting.state, waiting.due_at, waiting.error, waiting.finished_at) == (State.RETRYING, later, failure, None)
    again = merge(waiting, move(State.RUNNING, attempt=2, number=2))
    assert (again.state, again.attempt, again.error) == (State.RUNNING, 2, None)


def test_a_start_that_comes_late_does_not_reopen_a_released_attempt() -> None:
    # Queued with attempt 1 behind it: the relay has released the retry already.
    queued = Standing(State.QUEUED, attempt=1)
    assert merge(queued, move(State.RUNNING, worker="w1")).state is State.QUEUED
    assert merge(queued, move(State.RETRYING, number=2)).state is State.QUEUED
    assert merge(queued, move(State.RUNNING, attempt=2, number=3)).state is State.RUNNING


def test_the_worker_of_an_older_attempt_is_not_believed() -> None:
    second = Standing(State.RUNNING, attempt=2, started_attempt=2, worker="w2", token="t2")
    assert merge(second, move(State.SUCCEEDED, attempt=1, number=9, result="stale")) == second


def test_a_lost_attempt_is_counted_once() -> None:
    lost = move(State.RETRYING, due_at=NOON, lost=True)
    once = merge(Standing(State.RUNNING, attempt=1), lost)
    assert once.lost_attempts == {1}
    assert merge(once, lost) is once


def test_an_interrupted_attempt_is_no_loss() -> None:
    interrupted = move(State.RETRYING, due_at=NOON, interrupted=True)
    once = merge(Standing(State.RUNNING, attempt=1), interrupted)
    assert once.interrupted_attempts == {1}
    assert once.lost_attempts == set()
    assert merge(once, interrupted) is once


def test_an_attempt_that_was_put_off_is_no_loss() -> None:
    snoozed = move(State.RETRYING, due_at=NOON, snoozed=True)
    once = merge(Standing(State.RUNNING, attempt=1), snoozed)
    assert once.snoozed_attempts == {1}
    assert once.lost_attempts == once.interrupted_attempts == frozenset()
    assert merge(once, snoozed) is once


def test_an_attempt_that_never_ran_ends_what_was_queued_for_it() -> None:
    queued = Standing(State.QUEUED, attempt=1, started_attempt=1, worker="w1")
    ended = merge(queued, move(State.SKIPPED, attempt=1, reason="too late", ran=False))
    assert (ended.state, ended.attempt, ended.reason, ended.is_final) == (State.SKIPPED, 1, "too late", True)
    assert (ended.started_attempt, ended.worker) == (1, "w1")


def test_an_attempt_that_did_start_outweighs_the_report_that_it_never_ran() -> None:
    never = move(State.FAILED, attempt=0, ran=False)
    started = move(State.RUNNING, attempt=1, number=2)
    assert merge(merge(Standing(State.QUEUED), never), started).state is State.RUNNING
    assert merge(merge(Standing(State.QUEUED), started), never).state is State.RUNNING


@pytest.mark.parametrize(
    ("attempt", "free", "used"),
    [(0, 0, 0), (1, 0, 0), (2, 0, 1), (2, 1, 0), (4, 2, 1), (1, 1, 0)],
)
def test_losing_a_worker_or_being_put_off_uses_up_no_retry(attempt: int, free: int, used: int) -> None:
    assert retries_used(attempt, free) == used
