"""Validation of submissions and definitions, and the due times of executions. Single fields are tested over HTTP."""

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
def test_submission_due_time_and_initial_state(
    submission: Submission, when: dt.datetime, state: ExecutionState
) -> None:
    assert validate_submission(submission, NOW) == []
    assert compute_due_at_and_state(submission, NOW) == (when, state)


@pytest.mark.parametrize(
    ("seconds", "codes"), [(-60, []), (-61, ["past_time"]), (3653 * 86400, []), (3653 * 86400 + 1, ["too_far"])]
)
def test_due_at_outside_limits_rejected(seconds: int, codes: list[str]) -> None:
    submission = Submission(job="j", due_at=NOW + seconds * SECOND)
    assert [problem.code for problem in validate_submission(submission, NOW)] == codes


_DAY = 86400


@pytest.mark.parametrize(
    ("submission", "expected_problems"),
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
def test_start_deadline_validated(submission: Submission, expected_problems: list[tuple[str, str]]) -> None:
    assert [(problem.pointer, problem.code) for problem in validate_submission(submission, NOW)] == expected_problems


@pytest.mark.parametrize("expires", [0, -5, float("inf"), 3654 * _DAY])
def test_definition_with_invalid_expires_rejected(expires: float) -> None:
    assert [problem.pointer for problem in validate_definition(JobDefinition("j", "t", expires=expires), [])] == [
        "/expires"
    ]


def test_batch_problem_pointers_contain_item_index() -> None:
    wrong = Submission(job="j", queue="No", priority=12, correlation_id="", delay=-1)
    pointers = [problem.pointer for problem in validate_submission(wrong, NOW, "/executions/3")]
    assert pointers == [f"/executions/3/{name}" for name in ("queue", "priority", "correlation_id", "delay")]


def test_nan_delay_rejected() -> None:
    [problem] = validate_submission(Submission(job="j", delay=float("nan")), NOW)
    assert problem.code == "not_allowed"


def test_incomplete_defaults_rejected_only_for_scheduled_job() -> None:
    assert validate_definition(JobDefinition("j", "t"), [USER]) == []
    scheduled = JobDefinition("j", "t", schedule={"kind": "interval", "every": 5})
    assert [problem.pointer for problem in validate_definition(scheduled, [USER])] == ["/defaults/user_id"]


@pytest.mark.parametrize("character", ["\x1b", "\r", "\x85", "\u202e", "\u2028"])
def test_text_with_control_character_rejected(character: str) -> None:
    of_job = JobDefinition("j", "t", description=f"a{character}", tags=(f"a{character}",))
    assert [problem.pointer for problem in validate_definition(of_job, [])] == ["/description", "/tags"]
    with pytest.raises(InvalidInput, match=f"there is U\\+{ord(character):04X} at index 1") as refused:
        check_note(f"a{character}")
    assert [problem.pointer for problem in refused.value.errors] == ["/note"]


def test_multiline_text_accepted() -> None:
    text = "Grüße\n\t👩\u200d💻"
    assert validate_definition(JobDefinition("j", "t", description=text), []) == []
    check_note(text)
    check_note(None)


def test_definition_problems_all_reported() -> None:
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


def test_circuit_policy_accepted_only_for_http_request() -> None:
    policy = {"circuit": {"failures": 3, "pause": "PT10M"}}
    normalized, problems = policies.normalize(policy)
    assert (normalized["circuit"], problems) == ({"failures": 3, "pause": 600.0}, [])
    assert not validate_definition(JobDefinition("a", "http.request", policies=normalized), ())
    [problem] = validate_definition(JobDefinition("a", "tasks.any", policies=normalized), ())
    assert problem.pointer == "/circuit"
    for wrong in ({"failures": 0}, {"failures": 1001}, {"pause": 0}, {"pause": 86401}, {"target": "all"}):
        _, [problem] = policies.normalize({"circuit": wrong})
        assert problem.pointer == f"/circuit/{next(iter(wrong))}"


def test_raise_for_problems_reports_all_problems() -> None:
    admission.raise_for_problems([])
    problems = validate_submission(Submission(job="j", queue="No", priority=12), NOW)
    with pytest.raises(InvalidInput, match=r"queue must .*; priority must ") as caught:
        admission.raise_for_problems(problems)
    assert list(caught.value.errors) == problems


def test_overrides_contain_only_submitted_fields() -> None:
    assert Submission(job="j").compute_overrides() is None
    submission = Submission(job="j", time_limit=5.0, retry={"strategy": "fixed"})
    assert validate_submission(submission, NOW) == []
    overrides = submission.compute_overrides() or {}
    assert (set(overrides), overrides["time_limit"], overrides["retry"]["strategy"]) == (
        {"time_limit", "retry"},
        5.0,
        "fixed",
    )


def test_submission_policy_problems_have_pointers() -> None:
    wrong = Submission(job="j", time_limit=0, soft_time_limit=5.0, retry={"delays": []})
    pointers = [problem.pointer for problem in validate_submission(wrong, NOW, "/executions/3")]
    assert pointers == [f"/executions/3/{name}" for name in ("time_limit", "soft_time_limit", "retry/delays")]
