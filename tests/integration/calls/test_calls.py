"""Direct calls from Python, as Celery's users make them: they are executions like any other."""

import signal

import pytest

from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.executions import executions
from jobworker.store.executions.executions import ExecutionRow
from tests.engine import Engine
from tests.polling import wait_until

_PREAMBLE = "import jobworker.celery, datetime as dt\nfrom tests.jobs import calls\nfrom jobworker.celery import app\n"


def call_task(engine: Engine, expression: str) -> str:
    """Evaluate a call in a separate program and return the task's id."""
    return engine.run_python(f"{_PREAMBLE}print(({expression}).id)")


def list_attempt_states(engine: Engine, row: ExecutionRow) -> list[str]:
    """Return the states of the attempts of an execution."""
    return [attempt.state.value for attempt in executions.list_attempts(engine.database, row.id).items]


@pytest.fixture
def called_engine(any_engine: Engine) -> Engine:
    """Engine with a relay and a worker, on both databases."""
    any_engine.start()
    any_engine.wait_until_ready("called")
    return any_engine


def test_direct_call_creates_a_complete_execution(called_engine: Engine) -> None:
    engine = called_engine
    execution = call_task(engine, "calls.called.delay(4, good_attempt=2)")
    row = engine.wait_until_known_and_final(execution)
    assert (row.state, row.result, row.attempt, row.max_attempts) == (ExecutionState.SUCCEEDED, 40, 2, 3)
    assert (row.job, row.job_revision, row.task, row.queue, row.priority) == ("called", 1, "called", "background", 7)
    assert row.parameters == {"number": 4, "good_attempt": 2}
    assert row.created_by.startswith("python:")
    assert row.correlation_id == execution
    assert engine.list_transitions(execution) == [
        *[(0, "Queued"), (1, "Running"), (1, "Retrying"), (1, "Queued")],
        *[(2, "Running"), (2, "Succeeded")],
    ]
    assert list_attempt_states(engine, row) == ["Failed", "Succeeded"]
    lines = wait_until(lambda: executions.list_log_lines(engine.database, execution).items)
    assert [line.message for line in lines] == ["called with 4"] * 2
    assert engine.count_starts() == {(execution, 1): 1, (execution, 2): 1}


def test_direct_calls_of_every_kind_create_executions(called_engine: Engine) -> None:
    engine = called_engine
    own = "01a22dc7-fd10-7000-8000-000000000001"
    assert (
        call_task(engine, f"calls.called.apply_async(kwargs={{'number': 1}}, task_id='{own}', queue='critical')") == own
    )
    by_name = call_task(engine, "app.send_task('called', (2,), priority=1)")
    many = call_task(engine, "calls.summed.delay(1, 2, 3, good_attempt=2)")
    dated = call_task(engine, "calls.return_weekday.delay(dt.datetime(2026, 3, 2))")
    later = call_task(engine, "calls.summed.apply_async((5,), countdown=1)")

    [first, second] = engine.wait_for_executions("called", 2)
    assert first.id == own
    assert (first.result, first.queue, first.priority, first.correlation_id) == (10, "critical", 7, own)
    assert (second.id, second.result, second.queue, second.priority) == (by_name, 20, "background", 8)
    row = engine.wait_until_known_and_final(many)
    assert (row.result, row.attempt, row.parameters) == (6, 2, {"*": [1, 2, 3], "good_attempt": 2})
    assert engine.wait_until_known_and_final(dated).result == 1
    assert engine.wait_until_known_and_final(later).result == 5


def test_direct_call_from_a_job_inherits_its_correlation_id(called_engine: Engine) -> None:
    engine = called_engine
    parent = engine.submit_one("caller", correlation_id="order-17")
    assert engine.wait_until_final(parent).state is ExecutionState.SUCCEEDED
    numbers = engine.wait_for_executions("called", 3)
    assert sorted(row.result for row in numbers) == [10, 20, 30]
    steps = sorted(engine.wait_for_executions("plain_step", 3), key=lambda row: row.result)
    # The chain continues although its first step took two attempts.
    assert [(row.result, row.attempt) for row in steps] == [(2, 2), (12, 1), (112, 1)]
    assert {row.correlation_id for row in [*numbers, *steps]} == {"order-17"}
    assert [row.created_by for row in steps] == [f"execution:{key}" for key in (parent, steps[0].id, steps[1].id)]


def test_direct_call_survives_the_death_of_its_process(engine: Engine) -> None:
    engine.start()
    execution = call_task(engine, "calls.die_once.delay()")
    row = engine.wait_until_known_and_final(execution)
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, 2)
    assert list_attempt_states(engine, row) == ["Lost", "Succeeded"]


def test_direct_call_runs_on_a_worker_that_has_the_task(engine: Engine) -> None:
    engine.start_relay()
    docs_worker = engine.start_worker(JOBWORKER_TASKS="tests.docs")
    wait_until(lambda: "ready" in engine.read_log(docs_worker))
    execution = call_task(engine, "calls.called.delay(4)")
    wait_until(lambda: engine.has_execution(execution))
    engine.start_worker()
    assert engine.wait_until_known_and_final(execution).result == 40


def test_direct_call_in_a_thread_is_recorded_after_a_relay_outage(engine: Engine) -> None:
    relay = engine.start_relay()
    engine.start_worker("--pool", "threads")
    engine.wait_until_ready("called")
    relay.terminate(signal.SIGKILL)
    execution = call_task(engine, "calls.called.delay(4, good_attempt=2)")
    wait_until(lambda: engine.is_running(execution))
    engine.start_relay()
    assert engine.wait_until_known_and_final(execution).result == 40


def test_direct_call_with_unstorable_arguments_raises_value_error(engine: Engine) -> None:
    code = (
        "for arguments in (range(20000), ['\\ud800'], [float('nan')]):\n"
        "    try: calls.summed.delay(*arguments)\n"
        "    except ValueError as error: print(error)"
    )
    lines = engine.run_python(f"{_PREAMBLE}{code}").splitlines()
    assert len(lines) == 3
    assert all(line.startswith("task summed cannot be called like this: its ") for line in lines)


def test_results_of_direct_calls_are_read_from_history(called_engine: Engine) -> None:
    """Results are read as Celery's users do: get, state, successful, and the exception of a failure."""
    code = """
made = calls.called.delay(4)
print(made.get(timeout=30), made.state, made.successful(), made.ready())
failed = app.send_task("fail", ("badly",))
try:
    failed.get(timeout=30)
except RuntimeError as error:
    print(type(error).__name__, error, failed.state, failed.failed(), "Traceback" in failed.traceback)
own = calls.called.apply_async((5,), task_id="order-18")
print(own.get(timeout=30), app.AsyncResult(own.id).result, app.AsyncResult("order-18").result)
from celery import group
print(group(calls.called.s(1), calls.called.s(2)).delay().get(timeout=30))
late = calls.called.apply_async((1,), countdown=600)
try:
    late.get(timeout=0.5)
except Exception as error:
    print(type(error).__name__, late.state)
from celery import chord
try:
    chord([calls.called.s(1)])(calls.summed.s())
except NotImplementedError as error:
    print(error)
"""
    assert called_engine.run_python(_PREAMBLE + code).splitlines() == [
        "40 SUCCESS True True",
        "RuntimeError badly FAILURE True True",
        "50 50 50",
        "[10, 20]",
        "TimeoutError PENDING",
        "chords are not supported; submit a workflow, whose last step depends on the others",
    ]


def test_direct_call_accepts_any_queue_name_up_to_64_characters(engine: Engine) -> None:
    engine.start_relay()
    long = "x" * 65
    engine.start_worker("-Q", f"default,Mail,{long}")
    engine.wait_until_ready("called")
    kept = call_task(engine, "calls.called.apply_async((4, 2), queue='Mail')")
    row = engine.wait_until_known_and_final(kept)
    assert (row.result, row.attempt, row.queue) == (40, 2, "Mail")
    code = f"""
try:
    calls.plain_step.apply_async((5, 6), queue='{long}')
except ValueError as error:
    print(error)
"""
    output = engine.run_python(_PREAMBLE + code)
    assert "cannot be called like this: the name of its queue has more than 64 characters" in output


def test_direct_calls_into_a_queue_without_worker_are_logged(engine: Engine) -> None:
    relay = engine.start_relay()
    engine.start_worker()
    engine.wait_until_ready("called")
    execution = call_task(engine, "calls.called.apply_async((4,), queue='nobody')")
    warning = "waiting messages: 1; no worker takes from this queue: start one with -Q nobody"
    wait_until(lambda: warning in engine.read_log(relay), 30)
    engine.start_worker("-Q", "nobody")
    assert engine.wait_until_known_and_final(execution).result == 40


def test_direct_call_is_revoked_by_either_of_its_ids(engine: Engine) -> None:
    engine.start_relay()
    worker = engine.start_worker()
    engine.wait_until_ready("called")
    code = """
own = calls.called.apply_async((4,), task_id="order-19", countdown=3)
print(own.id, app.control.revoke("order-19", reply=True))
"""
    execution = engine.run_python(_PREAMBLE + code).split()[0]
    row = engine.wait_until_known_and_final(execution)
    assert (row.state, row.reason) == (ExecutionState.CANCELLED, "revoked through Celery's remote control"), (
        engine.read_log(worker)
    )
