"""Limit keys made from parameters, the token bucket of a rate limit, and the policies that are refused."""

import datetime as dt
from typing import Any

import pytest

from jobworker import job
from jobworker.domain.errors import ConfigurationError, InvalidInput
from jobworker.domain.jobs import limits, policies
from jobworker.domain.jobs.limits import RateLimitPolicy
from jobworker.domain.jobs.parameters import VARIADIC, Parameter

NOON = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)
TENANT = Parameter("tenant", "string")
REGION = Parameter("region", "string", required=False, default="eu")


def compute_time(seconds: float) -> dt.datetime:
    return NOON + dt.timedelta(seconds=seconds)


def make_key(template: str | None, *accepted: Parameter, **parameters: Any) -> str | None:
    normalized, problems = policies.normalize({"concurrency": {"limit": 1, "key": template}})
    assert not problems
    return limits.compute_keys("send", normalized, parameters, accepted).concurrency_key


@pytest.mark.parametrize(
    ("template", "parameters", "key"),
    [
        (None, {}, "send/"),
        ("all", {}, "send/all"),
        ("tenant:{tenant}", {"tenant": "t1"}, "send/tenant:t1"),
        ("{tenant}:{region}", {"tenant": "t1"}, "send/t1:eu"),
        ("{tenant}:{region}", {"tenant": "t1", "region": "us"}, "send/t1:us"),
        ("{tenant}", {}, "send/null"),
        ("{tenant}", {"tenant": 5}, "send/5"),
        ("{tenant}", {"tenant": 1.5}, "send/1.5"),
        ("{tenant}", {"tenant": True}, "send/true"),
        ("{tenant}", {"tenant": [2, "a"]}, 'send/[2,"a"]'),
        ("{tenant}", {"tenant": {"b": 1, "a": 2}}, 'send/{"a":2,"b":1}'),
        ("{tenant.address.city}", {"tenant": {"address": {"city": "Köln"}}}, "send/Köln"),
        ("{tenant.address.city}", {"tenant": {"address": "none"}}, "send/null"),
        ("{tenant}", {"tenant": "{region}"}, "send/{region}"),
        ("{tenant}", {"tenant": "a\nb"}, 'send/"a\\nb"'),
    ],
)
def test_concurrency_key_filled_from_parameters(template: str | None, parameters: dict[str, Any], key: str) -> None:
    assert make_key(template, TENANT, REGION, **parameters) == key


def test_long_key_shortened_and_unique() -> None:
    long, longer = make_key("{tenant}", tenant="x" * 500), make_key("{tenant}", tenant="x" * 501)
    assert long != longer
    assert str(long).startswith("send/xxx")
    assert len(str(long)) < 255 - 128


def test_limit_key_contains_concurrency_and_rate_keys() -> None:
    normalized, _ = policies.normalize(
        {"concurrency": {"limit": 1}, "rate_limit": {"limit": 1, "per": 1, "key": "{tenant}"}}
    )
    keys = limits.compute_keys("send", normalized, {"tenant": "a\nb"})
    assert keys.limit_key is not None
    assert limits.split_limit_key(keys.limit_key) == (keys.concurrency_key, keys.rate_key) == ("send/", 'send/"a\\nb"')
    assert {limits.get_job_name(part) for part in keys[:2] if part} == {"send"}
    only_rate = limits.compute_keys("send", {"rate_limit": normalized["rate_limit"]}, {}).limit_key
    assert only_rate is not None
    assert limits.split_limit_key(only_rate) == (None, "send/null")


def test_job_without_limits_has_no_keys() -> None:
    assert limits.compute_keys("send", policies.DEFAULTS, {"tenant": "a"}) == (None, None, None, None)


def test_unique_without_key_compares_parameters() -> None:
    normalized, _ = policies.normalize({"unique": {}})

    def key(**parameters: Any) -> str | None:
        return limits.compute_keys("send", normalized, parameters, [TENANT, REGION]).unique_key

    assert key(tenant="a") == key(region="eu", tenant="a")
    assert len({key(tenant="a"), key(tenant="b"), key(tenant="a", region="us")}) == 3


def test_token_bucket_empties_by_burst_and_refills_at_rate() -> None:
    rate = RateLimitPolicy(limit=60, per=60, burst=3)
    assert rate.count_permits(None, NOON) == 3
    full_at = rate.compute_full_at(None, NOON, 3)
    assert rate.count_permits(full_at, NOON) == 0
    assert rate.compute_next_start(full_at, NOON) == compute_time(1)
    assert [rate.count_permits(full_at, compute_time(seconds)) for seconds in (0.9, 1, 2, 3, 4, 999)] == [
        0,
        1,
        2,
        3,
        3,
        3,
    ]


@pytest.mark.parametrize(("limit", "per"), [(1, 3600), (10, 60), (3, 1), (7, 3), (1000, 1), (1, 0.3)])
def test_starts_never_exceed_rate_limit(limit: int, per: float) -> None:
    rate, full_at, started = RateLimitPolicy(limit, per), None, 0
    step = max(per / limit / 3, 0.01)
    together = max(1, limit / per * 0.2 + 1)
    for number in range(1000):
        now = compute_time(number * step)
        count = rate.count_permits(full_at, now)
        if count:
            full_at = rate.compute_full_at(full_at, now, count)
        started += count
        assert started <= number * step * limit / per + together + 1e-3
    assert started >= 999 * step * limit / per - 1, "and no fewer"


def test_permit_available_at_computed_next_start() -> None:
    rate = RateLimitPolicy(3, 1.0)
    full_at = rate.compute_full_at(None, NOON, 1)
    for _ in range(50):
        now = rate.compute_next_start(full_at, NOON)
        assert rate.count_permits(full_at, now) == 1
        full_at = rate.compute_full_at(full_at, now, 1)


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({"concurrency": {}}, {("/concurrency/limit", "missing")}),
        ({"concurrency": {"limit": 0}}, {("/concurrency/limit", "not_allowed")}),
        ({"concurrency": {"limit": -1}}, {("/concurrency/limit", "not_allowed")}),
        ({"concurrency": {"limit": 1.5}}, {("/concurrency/limit", "wrong_type")}),
        ({"concurrency": 5}, {("/concurrency", "wrong_type")}),
        ({"concurrency": {"limit": 1, "total": 5}}, {("/concurrency/total", "not_allowed")}),
        ({"concurrency": {"limit": 1, "key": "{tenant"}}, {("/concurrency/key", "not_allowed")}),
        ({"concurrency": {"limit": 1, "key": "{}"}}, {("/concurrency/key", "not_allowed")}),
        ({"concurrency": {"limit": 1, "key": "{a b}"}}, {("/concurrency/key", "not_allowed")}),
        ({"concurrency": {"limit": 1, "keys": "a"}}, {("/concurrency/keys", "unknown_field")}),
        ({"rate_limit": {"limit": 5}}, {("/rate_limit/per", "missing")}),
        ({"rate_limit": {"limit": 0, "per": 1}}, {("/rate_limit/limit", "not_allowed")}),
        ({"rate_limit": {"limit": 1, "per": 0}}, {("/rate_limit/per", "not_allowed")}),
        ({"rate_limit": {"limit": 1, "per": -5}}, {("/rate_limit/per", "not_allowed")}),
        ({"rate_limit": {"limit": 1, "per": 1, "burst": 0}}, {("/rate_limit/burst", "not_allowed")}),
        ({"unique": {"until": "never"}}, {("/unique/until", "not_allowed")}),
        ({"unique": {"until": "started", "for": 5}}, {("/unique/for", "ambiguous")}),
        ({"unique": {"for": 0}}, {("/unique/for", "not_allowed")}),
        ({"unique": {"on_conflict": "shrug"}}, {("/unique/on_conflict", "not_allowed")}),
    ],
)  # fmt: skip
def test_invalid_limit_policy_rejected(fields: dict[str, Any], problems: set[tuple[str, str]]) -> None:
    _, reported = policies.normalize(fields)
    assert {(problem.pointer, problem.code) for problem in reported} == problems


@pytest.mark.parametrize(
    "fields",
    [
        {"concurrency": {"limit": 2, "key": "{a}", "total": 5}},
        {"rate_limit": {"limit": 2, "per": "PT1M", "burst": 5}},
        {"unique": {"for": 60, "on_conflict": "replace"}},
        {"unique": {"key": "a", "until": "started"}},
    ],
)
def test_normalized_limit_policy_stays_unchanged(fields: dict[str, Any]) -> None:
    normalized, problems = policies.normalize(fields)
    assert not problems
    assert policies.normalize(normalized) == (normalized, [])


def test_limit_key_with_unknown_parameter_rejected() -> None:
    normalized, _ = policies.normalize(
        {"concurrency": {"limit": 1, "key": "{tenant.id}:{nobody}"}, "unique": {"key": "{x}"}}
    )
    problems = limits.validate_keys(normalized, [TENANT])
    assert [(problem.pointer, problem.code) for problem in problems] == [
        ("/concurrency/key", "unknown_parameter"),
        ("/unique/key", "unknown_parameter"),
    ]
    assert "{nobody}" in problems[0].message
    assert "tenant" in problems[0].message
    assert limits.validate_keys(normalized, [TENANT, VARIADIC]) == []


def test_declared_limit_key_validated_at_import() -> None:
    def limited(somebody: str) -> None: ...

    with pytest.raises(ConfigurationError, match="nobody"):
        job(limited, concurrency={"limit": 1, "key": "{nobody}"})


def test_rate_limit_problems_raised_together() -> None:
    with pytest.raises(InvalidInput, match="limit must be 1") as caught:
        limits.parse_rate_limit({"limit": 0, "per": "soon"})
    assert len(caught.value.errors) == 2
