"""Policies of a definition, which control how its executions run: each policy is JSON with a parser of its own.

A definition stores normalized policies; the API, `@job`, the catalog and the revisions handle all of them alike. A new
policy needs a parser, and an entry here.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.jobs import circuit_breaker, isolation, limits, retry
from jobworker.domain.workflows import trigger


class Policy(Protocol):
    """A policy that a parser returns."""

    def to_json(self) -> Any:
        """Return the JSON value that is stored and returned by the API."""
        ...


#: Parsers by the field of the definition. A parser takes the value and its place, and raises `InvalidInput`.
PARSERS: Mapping[str, Callable[[Any, str], Policy]] = {
    "retry": retry.parse,
    "isolation": isolation.parse,
    "circuit": circuit_breaker.parse,
    "concurrency": limits.parse_concurrency,
    "rate_limit": limits.parse_rate_limit,
    "unique": limits.parse_unique,
    "trigger_after": trigger.parse,
}

#: Defaults of the policies; None if the policy is absent by default.
DEFAULTS: Mapping[str, Any] = {
    **dict.fromkeys(PARSERS),
    "retry": retry.RetryPolicy().to_json(),
    "isolation": isolation.InProcessIsolation().to_json(),
    "trigger_after": [],
}

#: The policies that an execution may override.
OVERRIDABLE_POLICIES = frozenset({"retry"})

#: The policies that a worker applies.
WORKER_POLICIES = ("retry", "isolation", "circuit")


def select_for_worker(policies: Mapping[str, Any]) -> dict[str, Any]:
    """Return the policies of an execution that a worker applies.

    A retry policy without a strategy or delays is left out: then the task's own options decide.
    """
    described, where = policies.get("retry"), policies.get("isolation")
    sent = {"retry": described} if described and retry.parse(described).decides else {}
    if where and where["mode"] != isolation.IsolationMode.IN_PROCESS:
        sent["isolation"] = where
    if policies.get("circuit"):
        sent["circuit"] = policies["circuit"]
    return sent


def normalize(policies: Mapping[str, Any], where: str = "") -> tuple[dict[str, Any], list[FieldError]]:
    """Return each policy in its stored form, missing ones by default; and the problems of the given policies."""
    normalized, problems = dict(DEFAULTS), list[FieldError]()
    for name, value in policies.items():
        if value is None:
            continue
        try:
            normalized[name] = PARSERS[name](value, f"{where}/{name}").to_json()
        except InvalidInput as error:
            problems.extend(error.errors)
    return normalized, problems
