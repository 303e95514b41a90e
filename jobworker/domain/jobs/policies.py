"""What a definition may say about how its executions are run: each policy is JSON with a parser of its own.

A definition keeps policies as they were normalised; the API, `@job`, the catalogue and the revisions pass
all of them on alike. A new one needs a parser, and a line here.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.jobs import circuit_breaker, isolation, limits, retry
from jobworker.domain.workflows import trigger


class Policy(Protocol):
    """What a parser answers."""

    def to_json(self) -> Any:
        """As stored and shown."""
        ...


#: Parsers by the field of the definition; each takes what was given and where it stands, and raises `InvalidInput`.
PARSERS: Mapping[str, Callable[[Any, str], Policy]] = {
    "retry": retry.parse,
    "isolation": isolation.parse,
    "circuit": circuit_breaker.parse,
    "concurrency": limits.parse_concurrency,
    "rate_limit": limits.parse_rate_limit,
    "unique": limits.parse_unique,
    "trigger_after": trigger.parse,
}

#: What holds when a definition says nothing: None if there is no such policy then.
DEFAULTS: Mapping[str, Any] = {
    **dict.fromkeys(PARSERS),
    "retry": retry.RetryPolicy().to_json(),
    "isolation": isolation.InProcessIsolation().to_json(),
    "trigger_after": [],
}

#: The policies that one execution may have otherwise than its definition.
OVERRIDABLE_POLICIES = frozenset({"retry"})

#: The policies that a worker applies.
WORKER_POLICIES = ("retry", "isolation", "circuit")


def select_for_worker(policies: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an execution that a worker applies. Without a retry policy that decides, the task's own options do."""
    described, where = policies.get("retry"), policies.get("isolation")
    sent = {"retry": described} if described and retry.parse(described).decides else {}
    if where and where["mode"] != isolation.IsolationMode.IN_PROCESS:
        sent["isolation"] = where
    if policies.get("circuit"):
        sent["circuit"] = policies["circuit"]
    return sent


def normalize(policies: Mapping[str, Any], where: str = "") -> tuple[dict[str, Any], list[FieldError]]:
    """Each policy as it is stored, the missing ones by default; and what is wrong with those that were given."""
    made, problems = dict(DEFAULTS), list[FieldError]()
    for name, value in policies.items():
        if value is None:
            continue
        try:
            made[name] = PARSERS[name](value, f"{where}/{name}").to_json()
        except InvalidInput as error:
            problems.extend(error.errors)
    return made, problems
