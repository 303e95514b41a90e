"""What is let in, and when it is due. Single fields are tried over HTTP; here are the decisions."""

import datetime as dt

import pytest

from jobworker.domain.errors import InvalidInput
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import admission, policies
from jobworker.domain.jobs.admission import (
    Submission,
    compute_due_at_and_state,
    validate_definition,
    validate_submission,
)
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.domain.jobs.parameters import Parameter
from jobworker.domain.json.json_reader import check_note

NOW = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
USER = Parameter("user_id", "string")


@pytest.mark.parametrize(
    ("submission", "when", "state"),
    [
        (Submission(job="j"), NOW, ExecutionState.QUEUED),
        (Submission(job="j", delay=0), NOW, ExecutionState.QUEUED),
        (Submission(job="j", delay=5), NOW + 5 * SECOND, ExecutionState.SCHEDULED),
        (Submission(job="j", due_at=NOW), NOW, ExecutionState.QUEUED),
        (Submission(job="j", due_at=NOW + SECOND), NOW + SECOND, ExecutionState.SCHEDULED),
        (Submission(job="j", due_at=NOW - 59 * SECOND), NOW, ExecutionState.QUEUED),
    ],
)
def test_when_a_submission_is_due(submission: Submission, when: dt.datetime, state: ExecutionState) -> None:
    assert validate_submission(submission, NOW) == []
    assert compute_due_at_and_state(submission, NOW) == (when, state)


@pytest.mark.parametrize(
    ("seconds", "codes"), [(-60, []), (-61, ["past_time"]), (3653 * 86400, []), (3653 * 86400 + 1, ["too_far"])]
)
def test_the_limits_of_time(seconds: int, codes: list[str]) -> None:
    submission = Submission(job="j", due_at=NOW + seconds * SECOND)
    assert [problem.code for problem in validate_submission(submission, NOW)] == codes


_DAY = 86400


@pytest.mark.parametrize(
    ("submission", "found"),
    [
        (Submission(job="j", expires=0.001), []),
        (Submission(job="j", expires=3653 * _DAY), []),
        (Submission(job="j", expires=0), [("/expires", "not_allowed")]),
        (Submission(job="j", expires=-1), [("/expires", "not_allowed")]),
        (Submission(job="j", expires=float("nan")), [("/expires", "not_allowed")]),
        (Submission(job="j", expires=3653 * _DAY + 1), [("/expires", "not_allowed")]),
        (Submission(job="j", expires_at=NOW + SECOND), []),
        (Submission(job="j", expires_at=NOW), [("/expires_at", "past_time")]),
        (Submission(job="j", expires_at=NOW - SECOND), [("/expires_at", "past_time")]),
        (Submission(job="j", delay=60, expires_at=NOW + 61 * SECOND), []),
        (Submission(job="j", delay=60, expires_at=NOW + 60 * SECOND), [("/expires_at", "not_allowed")]),
        (Submission(job="j", expires_at=NOW + 3654 * _DAY * SECOND), [("/expires_at", "too_far")]),
        (Submission(job="j", expires=5, expires_at=NOW + SECOND), [("/expires", "ambiguous")]),
        (Submission(job="j", delay=-1, expires_at=NOW + SECOND), [("/delay", "not_allowed")]),
    ],
)
def test_deadlines_for_the_start(submission: Submission, found: list[tuple[str, str]]) -> None:
    assert [(each.pointer, each.code) for each in validate_submission(submission, NOW)] == found


@pytest.mark.parametrize("expires", [0, -5, float("inf"), 3654 * _DAY])
def test_a_definition_may_not_have_such_a_deadline(expires: float) -> None:
    assert [each.pointer for each in validate_definition(JobDefinition("j", "t", expires=expires), [])] == ["/expires"]


def test_problems_say_where_they_are_in_a_batch() -> None:
    wrong = Submission(job="j", queue="No", priority=12, correlation_id="", delay=-1)
    pointers = [problem.pointer for problem in validate_submission(wrong, NOW, "/executions/3")]
    assert pointers == [f"/executions/3/{name}" for name in ("queue", "priority", "correlation_id", "delay")]


def test_a_delay_that_is_no_number_is_refused() -> None:
    [problem] = validate_submission(Submission(job="j", delay=float("nan")), NOW)
    assert problem.code == "not_allowed"


def test_defaults_need_not_be_complete_unless_a_schedule_starts_the_job() -> None:
    assert validate_definition(JobDefinition("j", "t"), [USER]) == []
    scheduled = JobDefinition("j", "t", schedule={"kind": "interval", "every": 5})
    assert [problem.pointer for problem in validate_definition(scheduled, [USER])] == ["/defaults/user_id"]


@pytest.mark.parametrize("character", ["\x1b", "\r", "\x85", "\u202e", "\u2028"])
def test_texts_for_people_have_no_control_characters(character: str) -> None:
    of_job = JobDefinition("j", "t", description=f"a{character}", tags=(f"a{character}",))
    assert [problem.pointer for problem in validate_definition(of_job, [])] == ["/description", "/tags"]
    with pytest.raises(InvalidInput, match=f"there is U\\+{ord(character):04X} at index 1") as refused:
        check_note(f"a{character}")
    assert [problem.pointer for problem in refused.value.errors] == ["/note"]


def test_texts_for_people_may_have_several_lines() -> None:
    text = "Grüße\n\t👩\u200d💻"
    assert validate_definition(JobDefinition("j", "t", description=text), []) == []
    check_note(text)
    check_note(None)


def test_every_problem_of_a_definition_is_found() -> None:
    wrong = JobDefinition(
        name="no spaces",
        task="t",
        description="x" * 10_001,
        queue="No",
        priority=-1,
        defaults={"colour": 1},
        time_limit=-1,
        soft_time_limit=10**9,
        schedule={"kind": "lunar"},
        tags=("",),
        policies={"retry": {"max_attempts": 0}},
    )
    assert {problem.pointer for problem in validate_definition(wrong, [USER])} == {
        "/name", "/description", "/queue", "/priority", "/defaults/colour", "/defaults/user_id", "/retry/max_attempts",
        "/time_limit", "/soft_time_limit", "/schedule/kind", "/tags",
    }  # fmt: skip


def test_only_the_task_that_asks_targets_has_a_circuit() -> None:
    given = {"circuit": {"failures": 3, "pause": "PT10M"}}
    made, problems = policies.normalize(given)
    assert (made["circuit"], problems) == ({"failures": 3, "pause": 600.0}, [])
    assert not validate_definition(JobDefinition("a", "http.request", policies=made), ())
    [problem] = validate_definition(JobDefinition("a", "tasks.any", policies=made), ())
    assert problem.pointer == "/circuit"
    for wrong in ({"failures": 0}, {"failures": 1001}, {"pause": 0}, {"pause": 86401}, {"target": "all"}):
        _, [problem] = policies.normalize({"circuit": wrong})
        assert problem.pointer == f"/circuit/{next(iter(wrong))}"


def test_refuse_tells_everything_at_once() -> None:
    admission.raise_for_problems([])
    problems = validate_submission(Submission(job="j", queue="No", priority=12), NOW)
    with pytest.raises(InvalidInput, match=r"queue must .*; priority must ") as caught:
        admission.raise_for_problems(problems)
    assert list(caught.value.errors) == problems


def test_what_an_execution_has_otherwise_than_its_job() -> None:
    assert Submission(job="j").compute_overrides() is None
    other = Submission(job="j", time_limit=5.0, retry={"strategy": "fixed"})
    assert validate_submission(other, NOW) == []
    told = other.compute_overrides() or {}
    assert (set(told), told["time_limit"], told["retry"]["strategy"]) == ({"time_limit", "retry"}, 5.0, "fixed")


def test_policies_of_a_submission_are_checked_in_their_place() -> None:
    wrong = Submission(job="j", time_limit=0, soft_time_limit=5.0, retry={"delays": []})
    pointers = [problem.pointer for problem in validate_submission(wrong, NOW, "/executions/3")]
    assert pointers == [f"/executions/3/{name}" for name in ("time_limit", "soft_time_limit", "retry/delays")]
