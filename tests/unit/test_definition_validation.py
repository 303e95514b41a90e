"""Validation of definitions and of texts. Single fields are tested over HTTP."""

import pytest

from jobworker.domain.errors import InvalidInput
from jobworker.domain.jobs import policies
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.domain.jobs.definition_validation import validate_definition
from jobworker.domain.jobs.parameters import Parameter
from jobworker.domain.json.json_reader import check_note

USER = Parameter("user_id", "string")
_DAY = 86400


@pytest.mark.parametrize("expires", [0, -5, float("inf"), 3654 * _DAY])
def test_definition_with_invalid_expires_rejected(expires: float) -> None:
    assert [problem.pointer for problem in validate_definition(JobDefinition("j", "t", expires=expires), [])] == [
        "/expires"
    ]


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
