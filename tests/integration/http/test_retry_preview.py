"""Preview of retry policies."""

from typing import Any

import pytest

from tests.integration.http.conftest import ApiDriver


def _preview_retry(api: ApiDriver, **body: Any) -> Any:
    return api.client.post("/api/v1/retry/preview", json=body)


def test_preview_lists_delay_and_due_time_per_attempt(api: ApiDriver) -> None:
    policy = {"strategy": "exponential_jitter", "delay": 30, "max_attempts": 3}
    answered = _preview_retry(api, retry=policy, **{"from": "2026-03-02T12:00:00Z"})
    assert answered.status_code == 200
    noon = "2026-03-02T12:00:00Z"
    assert answered.json == {
        "attempts": [
            {"attempt": 1, "wait": {"shortest": 0, "longest": 0}, "due": {"earliest": noon, "latest": noon}},
            {
                "attempt": 2,
                "wait": {"shortest": 15, "longest": 45},
                "due": {"earliest": "2026-03-02T12:00:15Z", "latest": "2026-03-02T12:00:45Z"},
            },
            {
                "attempt": 3,
                "wait": {"shortest": 30, "longest": 90},
                "due": {"earliest": "2026-03-02T12:00:45Z", "latest": "2026-03-02T12:02:15Z"},
            },
        ],
        "total": {"shortest": 45, "longest": 135},
    }


@pytest.mark.parametrize(
    ("policy", "attempts", "expected_number"),
    [
        ({"strategy": "fixed"}, None, 10),
        ({"strategy": "fixed"}, 1000, 1000),
        ({"strategy": "fixed", "max_attempts": 4}, 3, 3),
        ({"strategy": "fixed", "max_attempts": 4}, 9, 4),
        ({"delays": [1, "PT1H"], "max_attempts": 1}, None, 1),
    ],
)
def test_preview_limits_the_number_of_attempts(
    api: ApiDriver, policy: Any, attempts: int | None, expected_number: int
) -> None:
    assert len(_preview_retry(api, retry=policy, attempts=attempts).json["attempts"]) == expected_number


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "/retry", "missing"),
        ({"retry": None}, "/retry", "null"),
        ({"retry": {}}, "/retry/strategy", "missing"),
        ({"retry": {"max_attempts": 3}}, "/retry/strategy", "missing"),
        ({"retry": {"strategy": "quadratic"}}, "/retry/strategy", "not_allowed"),
        ({"retry": {"strategy": "fixed", "delay": -1}}, "/retry/delay", "not_allowed"),
        ({"retry": {"strategy": "fixed"}, "attempts": 0}, "/attempts", "not_allowed"),
        ({"retry": {"strategy": "fixed"}, "attempts": 1001}, "/attempts", "not_allowed"),
        ({"retry": {"strategy": "fixed"}, "from": "soon"}, "/from", "wrong_type"),
        ({"retry": {"delays": ["P300D"]}, "from": "9999-06-01T00:00:00Z"}, "/from", "too_far"),
        ({"retry": {"strategy": "fixed"}, "to": 1}, "/to", "unknown_field"),
    ],
)
def test_invalid_preview_returns_422_with_pointer(api: ApiDriver, body: Any, pointer: str, code: str) -> None:
    answered = _preview_retry(api, **body)
    assert answered.status_code == 422
    assert [(error["pointer"], error["code"]) for error in answered.json["errors"]] == [(pointer, code)]
